"""A user's own weights in a run of prune: the forms that they come in, and how far it cuts."""

import json
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import ramify
from ramify.commands.jobs import run_jobs
from ramify.commands.prune import prepare_widths, run_phase, try_widths
from ramify.commands.prune_accept import Acceptance, held_out
from ramify.commands.prune_settings import PruneSettings
from ramify.commands.run_folder import RunFolder
from ramify.commands.weights import trained_network
from ramify.data import Dataset
from ramify.errors import RamifyError
from ramify.models import build
from ramify.train.epoch import Training, cross_entropy, evaluate
from ramify.train.loop import train
from tests.commands.conftest import made_up
from tests.commands.test_jobs import timeless
from tests.stop import Stop

make = partial(build, "digits_net", dataset_shape=(1, 8, 8), classes=3, width=4)


@pytest.fixture(scope="module")
def many() -> Dataset:
    """Noisier copies of the images of the made-up data, 240 to train on and 120 to test."""
    generator, few = torch.Generator().manual_seed(5), made_up()
    labels = torch.arange(360) % 3
    images = few.x_train[:3][labels] + 1.5 * torch.randn(360, 1, 8, 8, generator=generator)
    parts = images[:240], labels[:240], images[240:], labels[240:]
    return Dataset("many", *parts, few.classes)


@pytest.fixture(scope="module")
def trained(many: Dataset) -> nn.Module:
    torch.manual_seed(1)
    net = make()
    batches = list(zip(many.x_train.split(40), many.y_train.split(40), strict=True))
    train(net, many.x_train[:1], cross_entropy, batches, training=Training(epochs=12, lr=0.05))
    return net.eval()


def settings(weights: Path | None, **given: Any) -> PruneSettings:
    small = {"data": "digits", "width": 4, "epochs": 1, "batch_size": 40, "probe_samples": 60}
    brought = {} if weights is None else {"weights": str(weights)}
    return PruneSettings.resolve({**small, "lr": 0.05, **brought, **given})


def run(path: Path, config: PruneSettings, data: Dataset, **watch: Any) -> list[dict[str, Any]]:
    folder = RunFolder.create(path, config.to_json())
    run_jobs(config, folder, data, run=run_phase, **watch)
    return folder.events()


def same(one: nn.Module, two: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# ------------------------------------------------------------------ the file


def written(form: str, net: nn.Module, folder: Path) -> Path:
    """The weights of a network in one of the forms that users have."""
    state = net.state_dict()
    forms: dict[str, Any] = {
        "state": state,
        "nested": {"epoch": 3, "best": 0.9, "state_dict": state},
        "model": {"model": state, "optimizer": {"state": {}, "param_groups": []}},
        "parallel": {f"module.{name}": tensor for name, tensor in state.items()},
        "compiled": {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()},
        "uncounted": {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")},
    }
    if form in forms:
        torch.save(forms[form], folder / "net.pt")
        return folder / "net.pt"
    if form == "safetensors":
        save_file(state, folder / "net.safetensors")
        (folder / "net.json").write_text('{"model_type": "of another library"}')
        return folder / "net.safetensors"
    assert form == "saved"
    ramify.save(net, folder / "net")
    return folder / "net"


FORMS = ["state", "nested", "model", "parallel", "compiled", "uncounted", "safetensors", "saved"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_weights_is_read(form: str, trained: nn.Module, tmp_path: Path) -> None:
    found = trained_network(str(written(form, trained, tmp_path)), make)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(found.eval()(x), trained(x))
    assert form == "uncounted" or same(found, trained)


def test_half_precision_becomes_the_type_of_the_model(trained: nn.Module, tmp_path: Path) -> None:
    state = {n: t.half() if t.is_floating_point() else t for n, t in trained.state_dict().items()}
    torch.save(state, tmp_path / "net.pt")
    found = trained_network(str(tmp_path / "net.pt"), make)
    for name, tensor in found.state_dict().items():
        assert tensor.dtype == trained.state_dict()[name].dtype
        assert torch.equal(tensor, state[name].to(tensor.dtype))


def test_a_saved_network_has_the_shape_of_its_recipe(tmp_path: Path) -> None:
    net = make()
    graph = ramify.trace(net, torch.zeros(1, 1, 8, 8))
    ramify.apply(graph, [ramify.Prune("layer2.0", 1)])
    ramify.save(net, tmp_path / "net")
    assert same(trained_network(str(tmp_path / "net.safetensors"), make), net)
    config = settings(tmp_path / "net", budget={"params": "80%"})
    assert config.budget_of(net, torch.zeros(1, 1, 8, 8)) == {
        "params": 0.8 * sum(p.numel() for p in net.parameters())
    }


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 3)
        self.two = nn.Linear(3, 3)
        self.two.weight = self.one.weight


def test_a_tied_tensor_needs_one_of_its_names(tmp_path: Path) -> None:
    net = Tied()
    state = {name: tensor for name, tensor in net.state_dict().items() if name != "two.weight"}
    torch.save(state, tmp_path / "net.pt")
    assert same(trained_network(str(tmp_path / "net.pt"), Tied), net)


class Planted:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("planted"),)


def test_nothing_but_tensors_is_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: nn.Module
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": trained.state_dict(), "extra": Planted()}, "planted.pt")
    torch.save(trained, "whole.pt")
    Path("plain.pkl").write_bytes(pickle.dumps(Planted()))
    Path("torn.pt").write_bytes(b"PK torn")
    for name in ("planted.pt", "whole.pt", "plain.pkl", "torn.pt"):
        with pytest.raises(RamifyError, match=f"{name} cannot be read as tensors alone, and noth"):
            trained_network(name, make)
    assert not Path("planted").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("head.weight"), "it lacks head.weight: give --model and --width as it"),
        (lambda s: s.update(more=torch.ones(1)), "it has also more: give --model"),
        (
            lambda s: s.update({"head.bias": torch.ones(5)}),
            r"it has head.bias as \(5,\) instead of \(3,\): give",
        ),
        (
            lambda s: [s.pop(name) for name in list(s)[:4]] and s.update(other=torch.ones(2)),
            r"it lacks layer1\S+, layer1\S+, layer1\S+ and 1 more, and has also other: give",
        ),
        (lambda s: s["head.bias"].fill_(torch.nan), "numbers that are not finite in head.bias"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    change: Any, said: str, trained: nn.Module, tmp_path: Path, many: Dataset
) -> None:
    state = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    change(state)
    torch.save(state, tmp_path / "net.pt")
    with pytest.raises(RamifyError, match=said):
        try_widths(settings(tmp_path / "net.pt"), many)


def test_a_mask_that_the_network_has_too_may_be_infinite(tmp_path: Path) -> None:
    def masked() -> nn.Module:
        net = make()
        net.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
        return net

    torch.save(masked().state_dict(), tmp_path / "net.pt")
    read = trained_network(str(tmp_path / "net.pt"), masked)
    assert torch.equal(dict(read.named_buffers())["mask"], torch.full((3, 3), -torch.inf).triu(1))
    torch.save(
        masked().state_dict() | {"mask": torch.full((3, 3), -torch.inf)}, tmp_path / "net.pt"
    )
    with pytest.raises(RamifyError, match="numbers that are not finite in mask"):
        trained_network(str(tmp_path / "net.pt"), masked)


@pytest.mark.parametrize("content", [{"epoch": 3, "loss": 0.5}, [torch.ones(2)], {}])
def test_a_file_without_a_state_dictionary_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(RamifyError, match="net.pt holds .*, and no state dictionary; give what"):
        trained_network(str(tmp_path / "net.pt"), make)


def test_a_folder_is_no_file_of_weights(tmp_path: Path) -> None:
    with pytest.raises(RamifyError, match="is a folder; give what torch.save"):
        settings(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(RamifyError, match=r"is a folder: give a file in it, such as .*model.safe"):
        settings(tmp_path)


def test_an_empty_file_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "net.pt").touch()
    with pytest.raises(RamifyError, match=r"net.pt is empty: copy it again"):
        trained_network(str(tmp_path / "net.pt"), make)


# ------------------------------------------------------------------ the run


def test_the_users_network_is_measured_cut_and_tuned(
    trained: nn.Module, tmp_path: Path, many: Dataset
) -> None:
    config = settings(written("state", trained, tmp_path))
    assert (config.pretrain_epochs, config.search_epochs, config.distill) == (0, 0, True)
    events = run(tmp_path / "run", config, many)
    assert [(e["event"], e["arm"]) for e in events] == [
        ("stop", "baseline"),
        ("result", "baseline"),
        ("edit", "pruned"),
        ("rate", "pruned"),
        ("epoch", "pruned"),
        ("stop", "pruned"),
        ("result", "pruned"),
    ]
    _, accuracy = evaluate(trained, [(many.x_test, many.y_test)])
    assert events[0]["test_accuracy"] == events[1]["test_accuracy"] == pytest.approx(accuracy)
    assert (events[1]["steps"], events[0]["macs"]) == (0, events[2]["macs_before"])
    assert same(ramify.load(tmp_path / "run/baseline-0", make), trained)


def test_the_users_network_is_tuned_at_a_rate_that_does_not_ruin_it(
    trained: nn.Module, tmp_path: Path
) -> None:
    file = str(written("state", trained, tmp_path))

    def rate(**given: Any) -> tuple[float | None, float]:
        settings = PruneSettings.resolve({"data": "digits", **given})
        return settings.tuning_lr, settings.tuning().lr

    # None: found by trials, of which the first one takes the second number.
    assert rate() == rate(weights=file) == rate(weights=file, lr=0.1) == (None, 0.01)
    assert rate(optimizer="adamw", lr=1e-3) == (None, 5e-4)
    assert rate(weights=file, from_scratch=True) == (0.05, 0.05)
    assert rate(weights=file, tuning_lr=0.03) == (0.03, 0.03)


def test_the_users_network_trains_on_where_that_is_asked(
    trained: nn.Module, tmp_path: Path, many: Dataset
) -> None:
    file = written("state", trained, tmp_path)
    config = settings(file, pretrain_epochs=1, epochs=0)
    events = run(tmp_path / "run", config, many)
    assert [e["event"] for e in events][:2] == ["epoch", "stop"]
    fresh = run(tmp_path / "fresh", settings(None, pretrain_epochs=1, epochs=0), many)
    assert events[0]["train_loss"] < 0.5 * fresh[0]["train_loss"]


def test_scores_of_the_users_network_need_no_search(trained: nn.Module, tmp_path: Path) -> None:
    file = written("state", trained, tmp_path)
    assert settings(file, searcher="taylor").search_epochs == 0
    assert settings(file, searcher="rarts").search_epochs == 1
    assert settings(None, searcher="taylor").search_epochs == 1


def test_a_changed_file_is_noticed(trained: nn.Module, tmp_path: Path, many: Dataset) -> None:
    file = written("state", trained, tmp_path)
    config = settings(file, accept={"accuracy": -5.0}, epochs=0)
    stored = json.loads(json.dumps(config.to_json()))
    assert PruneSettings.from_json(stored) == config
    for stop in range(3):  # it goes on to the same numbers where the file is the same
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / f"run-{stop}", config, many, log=Stop(stop))
        again = RunFolder.open(tmp_path / f"run-{stop}")
        run_jobs(PruneSettings.from_json(again.config()), again, many, run=run_phase)
        if stop:
            assert timeless(again) == timeless(RunFolder.open(tmp_path / "run-0"))
    torch.save(make().state_dict(), file)
    with pytest.raises(RamifyError, match="are not those that the run was started with; restore"):
        PruneSettings.from_json(stored)
    # A new run with the same settings takes the file as it is now.
    anew = PruneSettings.resolve({}, PruneSettings.of_file(tmp_path / "run-0/config.json", {}))
    assert (anew.weights, anew.accept) == (config.weights, config.accept)
    assert anew.weights_digest != config.weights_digest


def test_weights_are_tried_before_a_folder_is_made(
    trained: nn.Module, tmp_path: Path, many: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ramify.commands.jobs.load", lambda name: many)
    file = written("state", trained, tmp_path)
    assert prepare_widths(settings(file)) is many
    with pytest.raises(RamifyError, match="does not hold the weights of this DigitsNet"):
        prepare_widths(settings(file, width=5))


# ------------------------------------------------------------------ as small as it gets


def test_what_judges_is_trained_on_nowhere(many: Dataset) -> None:
    rest, held = held_out(many, seed=3)
    assert (len(rest.x_train), len(held.x_train)) == (140, 100)  # a tenth is less than a hundred
    both = torch.cat([rest.x_train, held.x_train]).flatten(1)
    assert len(both.unique(dim=0)) == 240
    assert not torch.equal(held_out(many, seed=4)[1].x_train, held.x_train)
    for count, number in ((3000, 300), (50_000, 2000)):
        x, y = torch.zeros(count, 1), torch.zeros(count)
        large = Dataset("large", x, y, x[:2], y[:2], ())
        assert len(held_out(large, 0)[1].x_train) == number


def test_the_judge_allows_what_it_says() -> None:
    net = nn.Linear(1, 2, bias=False)
    batch = (torch.tensor([[1.0]] * 9 + [[-1.0]]), torch.zeros(10).long())
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0], [0.0]]))  # nine of ten right
    judge = Acceptance.against(net, {"accuracy": -10.0}, [batch])
    assert judge.value == pytest.approx(0.9)
    assert judge(net)
    with torch.no_grad():
        net.weight.neg_()  # one of ten right
    assert not judge(net)
    assert judge.measures(net)["held_accuracy"] == pytest.approx(0.1)
    rise = judge.measures(net)["held_loss"] - judge.loss
    for allowed, good in ((1.01 * rise, True), (0.99 * rise, False)):
        assert Acceptance({"loss": allowed}, [batch], judge.value, judge.loss)(net) is good


def accepted(path: Path, file: Path, data: Dataset, **given: Any) -> dict[str, Any]:
    """The event of a cut without tuning."""
    events = run(path, settings(file, epochs=0, **given), data)
    [edit] = [event for event in events if event["event"] == "edit"]
    return edit


def test_as_small_as_the_accuracy_allows(trained: nn.Module, tmp_path: Path, many: Dataset) -> None:
    file = written("state", trained, tmp_path)
    strict, loose = (
        accepted(tmp_path / str(points), file, many, accept={"accuracy": -points})
        for points in (0.0, 20.0)
    )
    for edit, points in ((strict, 0.0), (loose, 20.0)):
        assert edit["accept"] == {"accuracy": -points}
        assert edit["held_samples"] == 100
        assert edit["held_accuracy_after"] >= edit["held_accuracy_before"] - points / 100 - 1e-6
    assert loose["macs_after"] < strict["macs_after"] <= strict["macs_before"]
    _, held = held_out(many, 0)
    loss, accuracy = evaluate(trained, [(held.x_train, held.y_train)])
    assert strict["held_accuracy_before"] == pytest.approx(accuracy)
    assert strict["held_loss_before"] == pytest.approx(loss, rel=1e-5)
    assert strict["loss_before"] == pytest.approx(loss, rel=1e-5)


def test_as_small_as_the_loss_allows_alone_and_beside_others(
    trained: nn.Module, tmp_path: Path, many: Dataset
) -> None:
    file = written("state", trained, tmp_path)
    alone = accepted(tmp_path / "alone", file, many, accept={"loss": 0.5})
    assert alone["held_loss_after"] <= alone["held_loss_before"] + 0.5 + 1e-6
    assert alone["macs_after"] < alone["macs_before"]
    given = {"accept": {"loss": 0.5}, "budget": {"params": "90%"}}
    both = accepted(tmp_path / "both", file, many, **given)
    assert both["params_after"] <= 0.9 * both["params_before"]
    few = accepted(tmp_path / "few", file, many, accept={"loss": 0.5}, ratio=0.2)
    assert 0 < sum(p["selected"] for p in few["proposals"]) <= 3  # a fifth of 12


def test_a_budget_that_costs_more_than_is_accepted_is_refused(
    trained: nn.Module, tmp_path: Path, many: Dataset
) -> None:
    file = written("state", trained, tmp_path)
    with pytest.raises(RamifyError, match="raise a budget, or ask for less"):
        accepted(tmp_path / "run", file, many, accept={"loss": 0.0}, budget={"macs": "20%"}, keep=1)


def test_the_end_is_measured_on_what_was_held_out(
    trained: nn.Module, tmp_path: Path, many: Dataset
) -> None:
    config = settings(written("state", trained, tmp_path), accept={"loss": 1.0})
    events = run(tmp_path / "run", config, many)
    assert events[-2]["event"] == "stop"
    assert 0 < events[-2]["held_accuracy"] <= 1
    steps = -(-140 // 40) - 1  # 140 samples in batches of 40, the last 20 alone: 4 steps
    assert events[-1]["steps"] == steps + 1
