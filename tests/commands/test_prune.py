"""Shrinking runs: every searcher, interrupted in every phase, and cut in every way."""

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ramify
from ramify.commands.jobs import run_jobs, save_unfinished
from ramify.commands.prune import run_phase, try_widths
from ramify.commands.prune_settings import PruneSettings
from ramify.commands.run_folder import RunFolder
from ramify.data import Dataset
from ramify.errors import RamifyError
from ramify.models import build
from ramify.relax import Pairs
from ramify.train.epoch import Training, cross_entropy, optimizer_over
from ramify.train.rounds import Choice, edit_event, measured
from ramify.train.shrink import cut, search_widths
from ramify.train.width_search import SEARCHERS, WidthSearch
from tests.commands.test_jobs import Stop, timeless, weights

SMALL = {"data": "digits", "width": 4, "epochs": 2, "batch_size": 15, "probe_samples": 20}


def resolve(**given: Any) -> PruneSettings:
    return PruneSettings.resolve({**SMALL, "lr": 0.05, **given})


def start(path: Path, config: PruneSettings) -> RunFolder:
    return RunFolder.create(path, config.to_json())


def run(path: Path, dataset: Dataset, **given: Any) -> RunFolder:
    config = resolve(**given)
    folder = start(path, config)
    run_jobs(config, folder, dataset, run=run_phase)
    return folder


def kinds(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    return [event for event in folder.events() if event["event"] == kind]


def assert_same(left: RunFolder, right: RunFolder) -> None:
    assert timeless(left) == timeless(right)
    one, two = weights(left), weights(right)
    assert one.keys() == two.keys() != set()
    for name, tensors in one.items():
        assert all(torch.equal(tensors[key], two[name][key]) for key in tensors)
    assert not left.checkpoint.exists()


# ------------------------------------------------------------------ the run


GIVEN: dict[str, dict[str, Any]] = {"rarts": {"distill": True}, "taylor": {"seeds": 2}}


@pytest.fixture(scope="module", params=GIVEN)
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, dataset: Dataset
) -> tuple[RunFolder, PruneSettings]:
    """A run without interruption, by a search with gates and by plain training."""
    config = resolve(searcher=request.param, **GIVEN[request.param])
    folder = start(tmp_path_factory.mktemp("runs") / "whole", config)
    run_jobs(config, folder, dataset, run=run_phase)
    return folder, config


def test_interrupted_after_every_event(
    whole: tuple[RunFolder, PruneSettings], tmp_path: Path, dataset: Dataset
) -> None:
    expected, config = whole
    folder = start(tmp_path / "run", config)
    for number in range(2 * len(expected.events())):
        try:
            run_jobs(config, folder, dataset, log=Stop(number % 2), run=run_phase)
        except KeyboardInterrupt:
            save_unfinished(folder)
        else:
            break
    assert_same(expected, folder)


@pytest.mark.parametrize("after", [4, 9, 15])
def test_interrupted_within_an_epoch(
    whole: tuple[RunFolder, PruneSettings], tmp_path: Path, dataset: Dataset, after: int
) -> None:
    expected, config = whole
    folder = start(tmp_path / "run", config)
    with pytest.raises(KeyboardInterrupt):
        run_jobs(config, folder, dataset, ticked=Stop(after), run=run_phase)
    run_jobs(config, folder, dataset, run=run_phase)
    assert_same(expected, folder)


def test_the_events_say_what_happened(tmp_path: Path, dataset: Dataset) -> None:
    folder = run(tmp_path / "run", dataset, searcher="darts")
    assert folder.command() == "prune"
    events = [e for e in folder.events() if e["event"] != "stop"]
    assert [(e["event"], e["job"]) for e in events] == [
        ("epoch", "baseline-0"),
        ("epoch", "baseline-0"),
        ("result", "baseline-0"),
        ("epoch", "scored-0"),
        ("epoch", "scored-0"),
        ("edit", "scored-0"),
        ("result", "scored-0"),
        ("epoch", "pruned-0"),
        ("epoch", "pruned-0"),
        ("result", "pruned-0"),
    ]
    edit = events[5]
    assert (edit["params_before"], edit["test_accuracy_before"]) == (
        events[4]["params"],
        events[4]["test_accuracy"],
    )
    assert edit["params_after"] == events[-1]["params"] < edit["params_before"]
    assert sum(p["selected"] for p in edit["proposals"]) == 5  # 0.4 · 12, rounded up
    kept = sorted(path.name for path in folder.path.glob("*.safetensors"))
    assert kept == ["baseline-0.safetensors", "cut-0.safetensors", "model.safetensors"]
    seed = partial(build, "digits_net", dataset_shape=(1, 8, 8), classes=3, width=4)
    small = ramify.load(folder.path / "model", build=seed)
    assert sum(p.numel() for p in small.parameters()) == edit["params_after"]


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_every_searcher_makes_as_many_steps(
    tmp_path: Path, dataset: Dataset, searcher: str
) -> None:
    folder = run(tmp_path / "run", dataset, searcher=searcher, pretrain_epochs=0, epochs=1)
    results = {event["arm"]: event for event in kinds(folder, "result")}
    assert results["scored"]["steps"] == 2  # of two batches, in one epoch of 22 and 23 samples
    assert results["pruned"]["steps"] == 3
    assert results["pruned"]["params"] < results["scored"]["params"]


def test_distillation_and_fresh_weights_change_the_tuning(tmp_path: Path, dataset: Dataset) -> None:
    runs = {
        name: run(tmp_path / name, dataset, searcher="l1", **given)
        for name, given in {
            "warm": {},
            "taught": {"distill": True},
            "cooler": {"distill": True, "temperature": 1.0},
            "fresh": {"from_scratch": True},
        }.items()
    }
    first = {name: kinds(folder, "epoch")[-2] for name, folder in runs.items()}
    assert {event["params"] for event in first.values()} == {first["warm"]["params"]}
    assert len({event["train_loss"] for event in first.values()}) == 4
    assert first["fresh"]["train_loss"] > first["warm"]["train_loss"]


# ------------------------------------------------------------------ how much is cut


def after(path: Path, dataset: Dataset, **given: Any) -> dict[str, Any]:
    [edit] = kinds(run(path, dataset, pretrain_epochs=0, epochs=1, **given), "edit")
    return edit


def test_a_share_of_every_layer(tmp_path: Path, dataset: Dataset) -> None:
    edit = after(tmp_path / "run", dataset, searcher="random", per_layer=True, ratio=0.5)
    assert edit["widths_after"] == {"layer1.0": 2, "layer2.0": 2, "layer3.0": 2, "head": 3}


def test_a_budget(tmp_path: Path, dataset: Dataset) -> None:
    edit = after(tmp_path / "run", dataset, searcher="joint", budget={"params": 250.0})
    assert edit["params_after"] <= 250 < edit["params_before"]


def test_multiples(tmp_path: Path, dataset: Dataset) -> None:
    edit = after(tmp_path / "run", dataset, searcher="random", multiple_of=2, ratio=0.5)
    changed = set(edit["widths_after"].values()) - {3}
    assert changed <= {2, 4}
    assert 2 in changed


def test_chosen_groups(tmp_path: Path, dataset: Dataset) -> None:
    given = {"groups": ("*2.0", "layer3*"), "ratio": 0.5}
    for searcher in ("rarts", "l1"):
        edit = after(tmp_path / searcher, dataset, searcher=searcher, **given)
        assert {p["group"] for p in edit["proposals"]} == {"layer2.0", "layer3.0"}
        assert edit["widths_after"]["layer1.0"] == 4


@pytest.mark.parametrize("searcher", ["rarts", "bn"])
def test_a_strong_penalty_learns_the_ratio(tmp_path: Path, dataset: Dataset, searcher: str) -> None:
    given = {"searcher": searcher, "threshold": 0.2, "search_epochs": 8, "momentum": 0.0}
    cuts = {
        gamma: after(tmp_path / str(gamma), dataset, gamma=gamma, **given) for gamma in (0.0, 2.2)
    }
    counts = [sum(p["selected"] for p in edit["proposals"]) for edit in cuts.values()]
    assert counts[0] == 0 < counts[1] < 12
    for edit in cuts.values():
        assert all(p["score"] >= -0.2 for p in edit["proposals"] if p["selected"])


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    "given, said",
    [
        ({"searcher": "sgd"}, "there is no searcher 'sgd'"),
        ({"searcher": "darts", "beta": 1.0}, "beta is no setting of the searcher darts1 but of ra"),
        ({"searcher": "l1", "gamma": 1.0}, "gamma is no setting of the searcher l1"),
        ({"searcher": "bn", "arch_lr": 1.0}, "arch_lr is no setting of the searcher bn"),
        ({"searcher_order": 2}, "searcher_order is 2 for the searcher rarts"),
        ({"searcher": "darts", "searcher_order": 3}, "it is 1 or 2"),
        ({"ratio": 0.1, "threshold": 0.1}, "ratio and threshold each say how much"),
        ({"threshold": 0.1, "per_layer": True}, "per_layer goes with ratio, not with threshold"),
        ({"searcher": "random", "threshold": 0.1}, "which random does not learn"),
        ({"distill": True, "pretrain_epochs": 0}, "distill needs the full network"),
        ({"temperature": 2.0}, "temperature is a setting of distill"),
        ({"distill": True, "temperature": 0.0}, "temperature is 0.0; it must be above 0"),
        ({"threshold": -1.0}, "threshold is -1.0"),
        ({"ratio": 1.5}, "fraction lies above 0 and up to 1"),
        ({"search_epochs": 0}, "the search is given 0 epochs"),
        ({"pretrain_epochs": -1}, "pretrain_epochs is -1"),
        ({"probe_samples": 0}, "probe_samples is 0"),
        ({"gamma": -1.0}, "gamma is -1.0"),
        ({"arch_lr": 0.0}, "arch_lr is 0.0"),
        ({"optimizer": "adam", "momentum": 0.5}, "momentum is a setting of sgd"),
    ],
)
def test_what_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(RamifyError, match=said):
        resolve(**given)


def test_settings_come_back_from_the_folder() -> None:
    for given in ({}, {"searcher": "bn", "budget": {"params": 9.0}}, {"distill": True}):
        config = resolve(**given)
        stored = json.loads(json.dumps(config.to_json()))
        assert PruneSettings.from_json(stored) == config


def test_darts_by_its_order() -> None:
    assert resolve(searcher="darts").searcher == "darts1"
    assert resolve(searcher="darts", searcher_order=2).searcher == "darts2"
    assert resolve(searcher="darts2").searcher == "darts2"


def test_full_networks_by_default() -> None:
    assert PruneSettings.resolve({"data": "digits"}).width == 16
    assert PruneSettings.resolve({"data": "cifar10"}).model == "preresnet20"
    assert PruneSettings.resolve({"data": "caltech20"}).width is None
    assert PruneSettings.resolve({"data": "digits", "model": "my.nets:build"}).width is None


def test_what_cannot_be_searched_is_said_before_any_work(dataset: Dataset) -> None:
    with pytest.raises(RamifyError, match="the budget of params is 10, and with a single channel"):
        try_widths(resolve(budget={"params": 10.0}), dataset)
    with pytest.raises(RamifyError, match="is called blocks.*: print"):
        try_widths(resolve(groups=("blocks*",)), dataset)
    with pytest.raises(RamifyError, match="within the budget as it is, and nothing would be cut"):
        try_widths(resolve(budget={"params": 9e9}), dataset)
    try_widths(resolve(budget={"params": 40.0}), dataset)
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    data = Pairs([(torch.ones(2, 2), torch.ones(2).long())], [(torch.ones(2, 2), torch.ones(2))])
    with pytest.raises(RamifyError, match="which is what bn learns: take another searcher"):
        ramify.shrink(
            net,
            torch.ones(1, 2),
            cross_entropy,
            data,
            search=WidthSearch("bn"),
            rule=ramify.TopFraction(0.5),
            training=Training(),
        )


# ------------------------------------------------------------------ the mathematics


def problem() -> tuple[nn.Module, Pairs, torch.Tensor]:
    torch.set_default_dtype(torch.float64)
    x, y = torch.randn(32, 3), torch.randint(2, (32,))
    net = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2))
    net[1].weight.data.uniform_(0.5, 1.5)
    halves = [[(x[i : i + 8], y[i : i + 8]) for i in (start, start + 8)] for start in (0, 16)]
    return net, Pairs(*halves), x[:1]


def searched(
    net: nn.Module, pairs: Pairs, inputs: torch.Tensor, optimizer: str = "sgd", **given: Any
) -> Any:
    rate = 0.1 if optimizer == "sgd" else 0.01
    training = Training(optimizer=optimizer, lr=rate, weight_decay=0.01, schedule="constant")
    return search_widths(
        net,
        inputs,
        cross_entropy,
        pairs,
        search=WidthSearch(epochs=3, **given),
        training=training,
        probe=pairs.a,
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_slimming_without_penalty_is_plain_training(optimizer: str) -> None:
    net, pairs, inputs = problem()
    other = copy.deepcopy(net)
    searched(net, pairs, inputs, optimizer, searcher="bn", gamma=0.0)
    searched(other, pairs, inputs, optimizer, searcher="l1")
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_a_step_of_network_slimming() -> None:
    """SGD on the mean loss of both batches with the subgradient γ sign(scale), by hand."""
    net, pairs, inputs = problem()
    pairs = Pairs(pairs.a[:1], pairs.p[:1])
    by_hand = copy.deepcopy(net)
    training = Training(lr=0.1, momentum=0.0, weight_decay=0.01, schedule="constant")
    search = WidthSearch("bn", epochs=1, gamma=0.3)
    search_widths(
        net, inputs, cross_entropy, pairs, search=search, training=training, probe=pairs.a
    )
    loss = sum(cross_entropy(by_hand, batch).mean() for batch in (*pairs.a, *pairs.p)) / 2
    (loss + 0.3 * by_hand[1].weight.abs().sum()).backward()
    optimizer_over(by_hand.parameters(), training).step()
    for one, two in zip(net.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def test_learning_rates_fall_over_the_whole_search() -> None:
    net, pairs, inputs = problem()
    gates = ramify.gate(ramify.trace(net, inputs))
    search = WidthSearch("rarts", epochs=2, arch_lr=0.4)
    searcher = search.make(net, gates, cross_entropy, Training(lr=0.1), steps=4)
    rates: dict[str, list[float]] = {"weights": [], "auxiliary": [], "arch": []}
    for pair in [*pairs(0), *pairs(1)]:
        for role, seen in rates.items():
            seen.append(searcher.optimizers[role].param_groups[0]["lr"])
        searcher.step(*pair)
    factors = [Training().factor(step, 4) for step in range(4)]
    assert rates["weights"] == rates["auxiliary"] == pytest.approx([0.1 * f for f in factors])
    assert rates["arch"] == pytest.approx([0.4 * f for f in factors])
    assert searcher.optimizers["arch"].param_groups[0]["weight_decay"] == 0


def test_gates_are_folded_and_their_sizes_are_the_scores() -> None:
    net, pairs, inputs = problem()
    scored = searched(net, pairs, inputs, searcher="milenas", gamma=0.1, arch_lr=0.5)
    assert not hasattr(net, "ramify_gates")
    values = [proposal.value for proposal in scored.proposals]
    assert len(values) == 6
    assert values == sorted(values, reverse=True)
    assert values[0] != -1
    expected = net.eval()(inputs)
    least = scored.proposals[0].edit.channel
    with torch.no_grad():
        net[3].weight[:, least] = 0
    zeroed = net(inputs)
    graph, _ = cut(scored, cross_entropy, pairs.a, rule=ramify.Threshold(most=1))
    assert graph["0"].width == 5
    torch.testing.assert_close(net(inputs), zeroed)
    assert not torch.equal(expected, zeroed)


def test_the_origin_of_a_group_that_an_edit_divides_is_left_out() -> None:
    """In Swin, a head of one channel leaves queries and keys as two groups."""
    net, pairs, inputs = problem()
    graph = ramify.apply(ramify.trace(net, inputs), [ramify.Prune("0", 1)])
    after = measured(graph, cross_entropy, pairs.a)
    before = {**after, "widths": {"0": 6}}
    assert graph.origin == {"0": [0, 2, 3, 4, 5], "3": [0, 1]}
    event = edit_event(graph, [], Choice(), before, after)
    assert event["origin"] == {"0": [0, 2, 3, 4, 5]}


# ------------------------------------------------------------------ shrink


def shrunk(path: Path | None = None, log: Callable[..., None] | None = None, **given: Any) -> Any:
    torch.manual_seed(3)
    net, pairs, inputs = problem()
    done = ramify.shrink(
        net,
        inputs,
        cross_entropy,
        pairs,
        search=WidthSearch(epochs=2, gamma=0.1),
        rule=ramify.TopFraction(0.5),
        training=Training(epochs=2),
        checkpoint=path,
        log=log,
        **given,
    )
    assert done.graph.model is net
    return done


def test_shrink_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    expected = shrunk()
    assert expected.graph["0"].width == 3
    seen = [event["event"] for event in expected.history]
    assert seen == ["epoch", "epoch", "edit", "epoch", "epoch", "stop"]
    for after in range(6):
        file = tmp_path / f"{after}.safetensors"
        with pytest.raises(KeyboardInterrupt):
            shrunk(file, log=Stop(after))
        again = shrunk(file)
        for one, two in zip(
            expected.graph.model.parameters(), again.graph.model.parameters(), strict=True
        ):
            assert torch.equal(one, two)


def test_a_teacher_that_cannot_teach_is_refused_before_any_work() -> None:
    net, pairs, inputs = problem()
    other = nn.Linear(3, 5)
    kept, drawn = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    settings = {"rule": ramify.TopFraction(0.5), "training": Training(epochs=1)}
    for teacher, said in (
        (net, "the teacher is the network that is to be cut: give a copy"),
        (other, "take a teacher of the same classes"),
    ):
        with pytest.raises(RamifyError, match=said):
            ramify.shrink(
                net,
                inputs,
                cross_entropy,
                pairs,
                search=WidthSearch(epochs=1),
                teacher=teacher,
                log=Stop(0),
                **settings,
            )
    assert all(torch.equal(value, kept[name]) for name, value in net.state_dict().items())
    assert torch.equal(drawn, torch.get_rng_state())


def test_shrink_with_a_teacher_and_a_budget() -> None:
    teacher, _, _ = problem()
    small = shrunk(teacher=teacher, budget={"params": 32})
    assert small.history[-1]["event"] == "stop"
    assert sum(p.numel() for p in small.graph.model.parameters()) <= 32
    plain = shrunk(budget={"params": 32})
    assert plain.history[-2]["train_loss"] != small.history[-2]["train_loss"]
