"""A Space that shows a model: its settings give MODEL, a hub's owner/repository."""

import os
from functools import partial

from cascade.web.model import open_model
from cascade.web.page import serve

if __name__ == "__main__":
    model = open_model(os.environ["MODEL"])
    log = partial(print, flush=True)
    serve(model, host="0.0.0.0", port=int(os.environ.get("PORT", "7860")), ready=log)
