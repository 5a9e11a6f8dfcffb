"STIV from scratch, in notebooks: text and image to video with a diffusion transformer"
__version__ = "0.1.0"


def __getattr__(name):
    "`load`, `Pipeline` and `Video`, imported when first asked for, so that `import stiv_nb` costs nothing"
    where = {"load": "stiv_nb.stiv.pipeline", "Pipeline": "stiv_nb.stiv.pipeline", "Video": "stiv_nb.data.video"}
    if name not in where: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module
    return getattr(import_module(where[name]), name)
