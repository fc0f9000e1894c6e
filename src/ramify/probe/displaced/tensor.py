"""A tensor in the two displaced networks, whose forms are computed only when needed."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ramify.probe.displaced.even import EvenOfCopies, EvenOfReLU, EvenPart, EvenTensor

Make = Callable[[], Tensor]
MakeEven = Callable[[], EvenPart | None]


class DisplacedTensor:
    """A tensor in the network of each copy.

    After linear operations only, it is *linear* in the displacement: the copies are base ± u, and u
    is its odd part. After any other operation it is given by the tensors of both copies. Each form
    is computed on first use, and only once.
    """

    def __init__(self, base: Tensor, make: dict[str, Make], even: MakeEven | None) -> None:
        self.base = base
        self._make = make
        self._made: dict[str, Tensor] = {}
        self._make_even = even
        self._even: tuple[EvenPart | None] | None = None
        self.scaled: Callable[[Tensor], Tensor] | None = None
        """A channelwise multiple of the odd part, computed more cheaply than from that part."""
        self.rescaled: Callable[[str, Tensor, Tensor], Tensor] | None = None
        """(copy, scale, shift) -> the copy scaled and shifted by channel, without an extra pass."""
        self.rectified: DisplacedTensor | None = None
        """The linear tensor of which this is the ReLU."""

    @classmethod
    def linear(cls, base: Tensor, odd: Make) -> DisplacedTensor:
        """The tensors base + odd and base − odd."""
        return cls(base, {"odd": odd}, lambda: None)

    @classmethod
    def of_copies(
        cls, base: Tensor, plus: Make, minus: Make, even: MakeEven | None = None
    ) -> DisplacedTensor:
        """Any two tensors; `even` if there is a cheaper way to compute it than from both."""
        return cls(base, {"plus": plus, "minus": minus}, even)

    @property
    def is_linear(self) -> bool:
        """Whether the copies are base ± u."""
        return "odd" in self._make

    def form(self, name: str) -> Tensor | None:
        """One of `odd`, `even`, `plus` and `minus`; None is zero."""
        if name == "even":
            return self.even
        if name not in self._made:
            make = self._make.get(name)
            self._made[name] = self._from_odd(name) if make is None else make()
        return self._made[name]

    def _from_odd(self, name: str) -> Tensor:
        """A form that was not given (a closure over `self` would keep the pass in memory)."""
        return self.base + self.odd if name == "plus" else self.base - self.odd

    def _whole(self, name: str) -> Tensor:
        found = self.form(name)
        assert found is not None
        return found

    @property
    def odd(self) -> Tensor:
        """Half the difference of the copies, for a linear tensor."""
        return self._whole("odd")

    @property
    def even_part(self) -> EvenPart | None:
        """The even part, not materialised; None is zero."""
        if self._even is None:
            if self._make_even is None:
                self._even = (EvenOfCopies((self.plus, self.minus, self.base)),)
            else:
                self._even = (self._make_even(),)
        return self._even[0]

    @property
    def even(self) -> Tensor | None:
        """Half the copies' sum, minus the base; None is zero."""
        part = self.even_part
        if part is not None and not isinstance(part, EvenTensor):
            part = EvenTensor((part.tensor(),))
            self._even = (part,)
        return None if part is None else part.tensor()

    @property
    def plus(self) -> Tensor:
        """The tensor of the first copy."""
        return self._whole("plus")

    @property
    def minus(self) -> Tensor:
        """The tensor of the second copy."""
        return self._whole("minus")


def relu(x: DisplacedTensor, base: Tensor) -> DisplacedTensor:
    """ReLU; directly after linear operations, its even part has a closed form.

    Args:
        x: its argument.
        base: its value in the unedited network.

    Returns:
        Its value in the displaced networks.
    """
    if not x.is_linear:
        return DisplacedTensor.of_copies(base, lambda: x.plus.relu(), lambda: x.minus.relu())
    out = DisplacedTensor.of_copies(
        base,
        lambda: (x.base + x.odd).relu_(),
        lambda: (x.base - x.odd).relu_(),
        lambda: EvenOfReLU((x.odd, x.base)),
    )
    out.rectified = x
    return out
