"""The headless workbench: every noun and verb of the product, importable from here. `__init__.pyi` lists them.

Nothing is imported until it is used, so `import workbench` costs next to nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
