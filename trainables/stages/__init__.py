"""Stages: units of work with an identity, from vocabularies and pre-training to the scores of a chain.

| question | file |
|---|---|
| What is a stage, and when is it produced, waited for or refused? | `base` |
| What does a trial run, and what does it report? | `chain` |
| Where does an encoder come from? | `vocabulary` and `pretrain`, or `import_encoder` |
| How is a task trained, several at once, or one together with a target? | `finetune`, `mixture`, `joint` |
| How do trained encoders become one? | `merge` |
| What do all trainings share? | `fit` |
| How are a task's texts tokenised? | `tokenise` |
| How is a model scored? | `evaluate` |
"""
