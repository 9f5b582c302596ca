"""Models and data sets to and from the Hugging Face Hub."""
