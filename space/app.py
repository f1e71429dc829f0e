"""A Space that shows a model: MODEL of its settings, a hub's owner/repository, or the digits."""

import os
from functools import partial

from cascade.web.model import open_model
from cascade.web.page import serve

if __name__ == "__main__":
    model = open_model(os.environ.get("MODEL", "digits"))
    log = partial(print, flush=True)
    serve(model, host="0.0.0.0", port=int(os.environ.get("PORT", "7860")), ready=log)
