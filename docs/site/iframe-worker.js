// Browsers start no worker from disk (file:). Where a page is opened from there, its search runs in a hidden frame instead. Like a
// worker, the frame gets copies of messages, and answers after its caller has returned.
if (location.protocol === "file:") {
  window.Worker = class {
    constructor(url) {
      this.onmessage = null
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.frame.srcdoc = "<!doctype html>"
      this.loaded = new Promise((resolve) => (this.frame.onload = () => this.load(url, resolve)))
      document.body.append(this.frame)
    }

    load(url, resolve) {
      const inside = this.frame.contentWindow
      inside.postMessage = (data) => {
        const copy = structuredClone(data)
        setTimeout(() => this.onmessage?.(new MessageEvent("message", { data: copy })))
      }
      const script = inside.document.createElement("script")
      script.src = url
      script.onload = () => resolve(inside)
      inside.document.body.append(script)
    }

    postMessage(data) {
      const copy = structuredClone(data)
      this.loaded.then((inside) => inside.onmessage(new MessageEvent("message", { data: inside.structuredClone(copy) })))
    }

    terminate() {
      this.frame.remove()
    }
  }
}
