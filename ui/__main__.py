"""`python -m ui`: serve the UI; its settings come from the environment (see `ui.settings`)."""

import os

# Gradio reads these while it is imported: a self-hosted product calls nobody.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"

from ui.app import serve
from ui.settings import UiSettings

if __name__ == "__main__":
    serve(UiSettings())
