"""The choice of micro-batch and rung, the depth dial, and the cards."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmjax.config import (
    BatchConfig,
    Config,
    ConfigError,
    LSTMConfig,
    MeshConfig,
    RampConfig,
    TransformerConfig,
    load_config,
    parse_quantity,
)
from lmjax.runtime import blueprint, devices, forecast, sizing

MODEL = TransformerConfig(vocab_size=64, length=1024, remat="auto")
CONFIG = Config(model=MODEL, batch=BatchConfig(rows=64, micro_rows="auto"))
COST = {"none": 40, "attention+qkv+up": 20, "attention+up": 15, "attention": 10, "full": 8}


def peak(config):
    """A state of 100, and a cost of each row by rung."""
    return 100 + COST[config.model.remat] * config.batch.micro_rows


@pytest.mark.parametrize(
    ("limit", "micro_rows", "remat"),
    [
        (1e9, 64, "none"),
        (100 + 40 * 16, 16, "none"),  # 16 rows of 1,024 are enough: nothing is computed twice
        (100 + 40 * 16 - 1, 16, "attention+qkv+up"),
        (100 + 10 * 16, 16, "attention"),
        (109, 1, "full"),
    ],
)
def test_the_cheapest_rung_with_enough_rows_is_taken(limit, micro_rows, remat):
    choice = sizing.choose(CONFIG, limit, peak)
    assert (choice.micro_rows, choice.remat) == (micro_rows, remat)
    assert choice.peak <= limit


def test_rows_at_a_time_are_a_multiple_of_the_devices_that_divide_them():
    config = dataclasses.replace(CONFIG, mesh=MeshConfig(data=2, fsdp=4))
    assert sizing.choose(config, 100 + 40 * 64, peak).micro_rows == 64
    assert sizing.choose(config, 100 + 8 * 15, peak).micro_rows == 8
    with pytest.raises(ConfigError, match=r"found .* for 8 rows with remat full"):
        sizing.choose(config, 100 + 8 * 7, peak)


def test_a_model_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"found .* for 1 row with remat full"):
        sizing.choose(CONFIG, 107, peak)


def limited(config, limit):
    try:
        return sizing.choose(config, limit, peak)
    except ConfigError:
        return None


@given(limit=st.floats(0, 3000), more=st.floats(0, 3000))
def test_what_is_chosen_is_the_largest_that_fits(limit, more):
    found = limited(CONFIG, limit)
    if found is None:
        assert limit < 108
        return
    rungs = list(COST)
    assert found.peak <= limit
    assert found.micro_rows == 64 or 100 + COST[found.remat] * found.micro_rows * 2 > limit
    if found.micro_rows >= 16:  # enough
        for cheaper in rungs[: rungs.index(found.remat)]:
            assert 100 + COST[cheaper] * 16 > limit
        assert rungs.index(limited(CONFIG, limit + more).remat) <= rungs.index(found.remat)


@given(limit=st.floats(100, 3000), more=st.floats(0, 3000), remat=st.sampled_from(list(COST)))
def test_more_memory_never_takes_fewer_rows_on_a_rung(limit, more, remat):
    fixed = sizing.applied(CONFIG, "auto", remat)
    one, other = limited(fixed, limit), limited(fixed, limit + more)
    assert one is None or (other.remat == remat and other.micro_rows >= one.micro_rows)


def test_what_is_given_is_kept():
    choice = sizing.choose(sizing.applied(CONFIG, 32, "auto"), 100 + 16 * 32, peak)
    assert (choice.micro_rows, choice.remat) == (32, "attention+up")
    with pytest.raises(ConfigError, match="for 32 rows with remat none"):
        sizing.choose(sizing.applied(CONFIG, 32, "none"), 300, peak)


def test_the_rows_of_every_stage_divide_into_micro_batches():
    ramped = dataclasses.replace(CONFIG, ramp=RampConfig(rows=((0.3, 6), (0.6, 48))))
    for ramp, micro in ((CONFIG.ramp, 32), (ramped.ramp, 16)):
        config = dataclasses.replace(CONFIG, ramp=ramp)
        assert sizing.choose(config, 100 + 40 * 40, peak).micro_rows == micro
    sizing.applied(ramped, 16, "none")
    with pytest.raises(ConfigError, match=r"ramp\.rows"):
        sizing.applied(ramped, 32, "none")


# ---- The formula, and the choice that a run makes by it


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("kind", [TransformerConfig, LSTMConfig])
def test_a_run_takes_the_largest_that_its_device_has_memory_for(kind, platform):
    model = kind(vocab_size=512, length=128, depth=4)
    config = Config(model=model, batch=BatchConfig(rows=512, micro_rows="auto"))
    parameters = blueprint.parameters(config)

    def needed(micro):
        remat = getattr(model, "remat", "none")
        return sum(sizing.formula_parts(sizing.applied(config, micro, remat), parameters, platform))

    taken = []
    for micro in (1, 4, 64, 512):
        memory = needed(micro) / sizing.MARGIN
        choice = sizing.settle(config, platform, memory * 1.001)
        assert choice.micro_rows == micro and choice.peak == needed(micro)
        taken.append(sizing.settle(config, platform, memory * 1.7).micro_rows)
    assert taken == sorted(taken)


def test_a_run_begun_before_keeps_its_choice():
    recorded = {"micro_rows": 2, "remat": "full", "peak": 1.0}
    assert sizing.settle(CONFIG, "cpu", 1e15, recorded) == sizing.Choice(2, "full", 1.0)


def test_nothing_is_chosen_where_nothing_is_auto():
    assert sizing.settle(sizing.applied(CONFIG, 4, "none"), "cpu", 0.0) is None


def test_a_plan_leaves_open_what_is_not_given():
    config = Config(model=dataclasses.replace(MODEL, remat="none"), batch=BatchConfig(rows=64))
    assert sizing.opened(config) == CONFIG
    given = sizing.applied(config, 8, "attention")
    assert sizing.opened(given) == given


# ---- The depth dial, and the cards


def test_a_day_on_an_h100_is_nanochats_d24(tmp_path):
    card = devices.find("h100")
    sized = sizing.size("24h", card)
    assert sized.config.model.depth == 24 and sized.config.model.width == 1536
    assert sized.config.batch.rows * sized.config.model.length == 2**20
    path = tmp_path / "mine.py"
    path.write_text(sizing.recipe_source(sized, sizing.Choice(16, "attention", 0.0), card))
    read = load_config(path)
    assert read == sizing.applied(sized.config, 16, "attention")


def test_less_time_buys_a_smaller_model():
    depths = [
        sizing.size(budget, devices.find("4090")).config.model.depth
        for budget in ("1h", "6h", "24h")
    ]
    assert depths == sorted(set(depths))


@pytest.mark.parametrize("key", devices.cards())
def test_every_card_has_a_target(key):
    card = devices.find(key)
    text = devices.target(card)
    assert text.count("{") == text.count("}") and f"core_count: {card.multiprocessors}" in text


def test_an_unknown_card_is_refused_with_the_names():
    with pytest.raises(ConfigError, match=r"expected one of h100, .*, found 'h1000'"):
        devices.find("h1000")


def test_a_budget_in_time_leaves_room_for_what_is_no_update():
    config = dataclasses.replace(CONFIG, budget="1h")
    bought = forecast.forecast(
        config,
        devices.find("h100"),
        parameters=10**8,
        state_bytes=12e8,
        flops_per_token=6e8,
        step_seconds=0.1,
        price_per_hour=2.5,
    )
    seconds = parse_quantity("1h", "budget", ("seconds",)).value
    assert bought.tokens == pytest.approx(0.94 * seconds / 0.1 * 64 * 1024)
    assert (bought.hours, bought.cost, bought.kwh) == (1.0, 2.5, 0.7)
    assert bought.loss == pytest.approx(forecast.loss(1e8, bought.tokens))
