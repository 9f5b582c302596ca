"""Judges: vision-language models behind a server or in process, a Robometer server, a learned classifier, the truth."""
