"""OpenVLA-OFT with discrete action tokens: the network, its checkpoints, adapters and supervised fine-tuning."""
