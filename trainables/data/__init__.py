"""Reading published data: files under a data root in their published forms, or data sets of the Hugging Face hub."""
