"""A page in the browser: what it does with a model, and the page itself, which takes Gradio."""
