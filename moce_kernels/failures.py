"""The errors of an operator whose backend, or one of its kernels, cannot run."""

from __future__ import annotations

VARIABLE = "MOCE_KERNELS_BACKEND"


class BackendUnavailableError(RuntimeError):
    """The requested backend cannot run; the message says why, and which backends can."""


class KernelUnavailableError(BackendUnavailableError):
    """A kernel that does not compile or load on this GPU. The message names it, the error, which is
    also the cause, and the setting that avoids it."""

    def __init__(self, operator: str, what: str, part_of: tuple[str, ...] = ()) -> None:
        super().__init__(operator, what)
        self.operator = operator
        self.what = what
        self.part_of = part_of

    def called_by(self, operator: str) -> None:
        """Name this operator instead of the part of it that failed."""
        self.operator, self.part_of = operator, ()

    def __str__(self) -> str:
        remedy = (
            f'To continue without it, set {VARIABLE}="{self.operator}=reference", or in Python '
            f'moce_kernels.use_backends({self.operator}="reference").'
        )
        if self.part_of:
            remedy += f" If it runs as a part of {' or '.join(self.part_of)}, name that instead."
        return f"{self.operator}: {self.what}\n{remedy}"


# What the CUDA runtime says where a library has neither machine code for a GPU nor PTX that its
# driver can compile.
NO_IMAGE = (
    "no kernel image is available",
    "device kernel image is invalid",
    "PTX was compiled with an unsupported toolchain",
    "PTX JIT compil",
)


def no_image(operator: str, error: RuntimeError) -> KernelUnavailableError | None:
    """The error to raise instead, if a kernel's error says that this GPU cannot load it."""
    if not any(text in str(error) for text in NO_IMAGE):
        return None
    return KernelUnavailableError(
        operator, f"the CUDA library has no kernel that this GPU and its driver can load: {error}"
    )
