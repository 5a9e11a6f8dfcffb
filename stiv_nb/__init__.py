"STIV from scratch, in notebooks: text and image to video with a diffusion transformer"
__version__ = "0.1.0"


def __getattr__(name):
    "`load`, `Pipeline` and `Video`, imported when first asked for: `import stiv_nb` costs nothing"
    pipeline = "stiv_nb.stiv.pipeline"
    home = {"load": pipeline, "Pipeline": pipeline, "Video": "stiv_nb.data.video"}
    if name not in home: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module
    return getattr(import_module(home[name]), name)
