"Exact reconstruction of black-box neural networks from their outputs."
__version__ = "0.1.0"

from importlib import import_module

_public = dict(reconstruct="recipes", Reconstruction="recipes", Oracle="oracle", Architecture="nets", parameter_error="canon", align="canon")
__all__ = list(_public)


def __getattr__(name):  # PEP 562: torch is imported when a name is first used, so that `import neurome_nb` is immediate
    if name not in _public: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_public[name]}"), name)
    return value


def __dir__(): return sorted(set(globals()) | set(_public))
