"""Makes threadpoolctl see and limit ulp's threads.

Where threadpoolctl is installed (scikit-learn brings it), `threadpool_limits(1)` then holds for `ulp.gemm` as it does for BLAS and OpenMP.
It is imported together with ulp, in about 5 ms: a hook that waits for its import would be more code than that is worth.
"""

from __future__ import annotations

import ctypes


def register() -> None:
    """Register ulp with threadpoolctl; does nothing where it is not installed or too old (before 3.2) to take other libraries."""
    try:
        from threadpoolctl import LibController
        from threadpoolctl import register as register_controller
    except ImportError:
        return

    class UlpController(LibController):  # type: ignore[misc]  # threadpoolctl has no annotations
        """ulp's thread pool, by the C symbols that its extension module exports."""

        user_api = "ulp"
        internal_api = "ulp"
        # threadpoolctl finds shared libraries by name, and other packages have a _core, too: the symbols decide.
        filename_prefixes = ("_core.",)
        check_symbols = ("ulp_get_num_threads", "ulp_set_num_threads", "ulp_get_version")

        def get_num_threads(self) -> int:
            return int(self.dynlib.ulp_get_num_threads())

        def set_num_threads(self, num_threads: int) -> None:
            self.dynlib.ulp_set_num_threads(ctypes.c_int(num_threads))

        def get_version(self) -> str | None:
            # Called before check_symbols is: this may be another package's _core.
            function = getattr(self.dynlib, "ulp_get_version", None)
            if function is None:
                return None
            function.restype = ctypes.c_char_p
            version: bytes = function()
            return version.decode()

    register_controller(UlpController)
