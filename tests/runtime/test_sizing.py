"""The choice of micro-batch and rung, the depth dial, and the cards."""

import dataclasses

import pytest

from lmjax.config import (
    BatchConfig,
    Config,
    ConfigError,
    TransformerConfig,
    load_config,
    parse_quantity,
)
from lmjax.runtime import devices, forecast, sizing

MODEL = TransformerConfig(vocab_size=64, length=1024)
CONFIG = Config(model=MODEL, batch=BatchConfig(rows=64))
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


def test_a_model_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"found .* for one row with all rematerialised"):
        sizing.choose(CONFIG, 107, peak)


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
