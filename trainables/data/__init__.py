"""Reading published data, from files under a data root or from data sets of the Hugging Face hub."""
