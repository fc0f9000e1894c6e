"""A tensor of two displaced networks, with only those forms computed that something asks for."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ramify.probe.displaced.even import Even, Halves, Rectified, Whole

Make = Callable[[], Tensor]
MakePart = Callable[[], Tensor | None]
MakeEven = Callable[[], Even | None]


class Twin:
    """What a tensor is in the network of each copy.

    As long as nothing but linear operations came before, it is *straight*: the copies are base ± u,
    and u is its odd part. After that they are bent, and half their sum lies off the base by an even
    part. Each form is made when it is first asked for, and once.
    """

    def __init__(self, base: Tensor, make: dict[str, Make], even: MakeEven | None) -> None:
        self.base = base
        self._make = make
        self._made: dict[str, Tensor] = {}
        self._even = even
        self._halves: tuple[Even | None] | None = None
        self.before: Twin | None = None
        """What it is the ReLU of."""
        self.scaled: Callable[[Tensor], Tensor] | None = None
        """A channelwise multiple of the odd part, by a shorter way than through that part."""

    @classmethod
    def straight(cls, base: Tensor, odd: Make) -> Twin:
        """A twin of base + odd and base − odd."""
        return cls(base, {"odd": odd}, lambda: None)

    @classmethod
    def bent(cls, base: Tensor, plus: Make, minus: Make, even: MakeEven | None = None) -> Twin:
        """A twin of two tensors; `even` where there is a shorter way to it than through both."""
        return cls(base, {"plus": plus, "minus": minus}, even)

    @property
    def is_straight(self) -> bool:
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
        """A form that was not given (a closure over the twin would keep the pass in memory)."""
        return self.base + self.odd if name == "plus" else self.base - self.odd

    def _whole(self, name: str) -> Tensor:
        found = self.form(name)
        assert found is not None
        return found

    @property
    def odd(self) -> Tensor:
        """Half the difference of the copies, of a straight twin."""
        return self._whole("odd")

    @property
    def halves(self) -> Even | None:
        """The even part, not written out; None is zero."""
        if self._halves is None:
            made = (
                Halves((self.plus, self.minus, self.base)) if self._even is None else self._even()
            )
            self._halves = (made,)
        return self._halves[0]

    @property
    def even(self) -> Tensor | None:
        """Half the copies' sum, minus the base; None is zero."""
        halves = self.halves
        if halves is not None and not isinstance(halves, Whole):
            halves = Whole((halves.written(),))
            self._halves = (halves,)
        return None if halves is None else halves.written()

    @property
    def plus(self) -> Tensor:
        """The tensor of the first copy."""
        return self._whole("plus")

    @property
    def minus(self) -> Tensor:
        """The tensor of the second copy."""
        return self._whole("minus")


def rectified(x: Twin, base: Tensor) -> Twin:
    """ReLU; right behind linear operations, its even part has a closed form.

    Args:
        x: its argument.
        base: its value in the network as it is.

    Returns:
        Its twin.
    """
    even = (lambda: Rectified((x.odd, x.base))) if x.is_straight else None
    twin = Twin.bent(base, lambda: x.plus.relu(), lambda: x.minus.relu(), even)
    twin.before = x
    return twin
