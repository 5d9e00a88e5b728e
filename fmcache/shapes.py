"""Array annotations that carry shapes: ``Float[np.ndarray, "n d"]``.

With jaxtyping installed (the ``dev`` extra) they are real and the test suite checks them at run time; without it
they cost nothing and mean the plain array type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Num, UInt8
else:
    try:
        from jaxtyping import Bool, Float, Int, Num, UInt8
    except ImportError:

        class _Plain:
            def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
                return item[0]

        Bool = Float = Int = Num = UInt8 = _Plain

__all__ = ["Bool", "Float", "Int", "Num", "UInt8"]
