import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")   # before anything imports huggingface_hub: tests ask for nothing from outside
