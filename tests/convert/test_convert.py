"""What does not fit is told key by key, and nothing is written then."""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from crossalign.convert import LayoutMismatchError, convert_checkpoint, open_checkpoint, read_vocabulary
from crossalign.convert.layout import TowerLayout
from crossalign.convert.layouts import LAYOUTS
from crossalign.convert.translate import Differences, fold_batch_norm, translate
from crossalign.convert.vocabulary import published_tokenizer
from crossalign.errors import CrossAlignError
from crossalign.model import RetrievalModel
from published_cases import CASES, DIM, PIECES, WORDS, Case, bert_config

FILES = Path(__file__).parent / "files"


def convert(case: Case, folder: Path, **arguments: Any) -> Any:
    folder.mkdir(exist_ok=True)
    checkpoint = case.save(folder / "model_best.pth.tar", "zip")
    vocabulary = case.save_vocabulary(folder / "vocabulary", "json")
    return convert_checkpoint(checkpoint, vocabulary, folder / "model", **arguments)


def refusal(case: Case, folder: Path, **arguments: Any) -> str:
    with pytest.raises(CrossAlignError) as raised:
        convert(case, folder, **arguments)
    assert not (folder / "model").exists()
    message = str(raised.value)
    assert "\n" not in message
    return message


def mismatch(case: Case, folder: Path, **arguments: Any) -> LayoutMismatchError:
    with pytest.raises(LayoutMismatchError) as raised:
        convert(case, folder, **arguments)
    assert not (folder / "model").exists()
    assert "\n" not in str(raised.value)
    return raised.value


# What the published code saves and never reads again, or what only training reads.
UNUSED = (
    "mlp.bns.1.", "bert.pooler.", "bert.embeddings.position_ids", "num_batches_tracked", "v_prototypes",
    "embedding_common.0.bias", "graph_key_w.bias",
)  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_missing_key_is_told(tmp_path: Path, name: str) -> None:
    """One at a time; the keys by which a layout is recognised are given back by naming it."""
    case = CASES[name]()
    draw = random.Random(0)
    for place, part in enumerate(("image", "text", "extra")[: len(case.states)]):
        keys = [key for key in case.states[place] if not any(unused in key for unused in UNUSED)]
        for key in draw.sample(keys, min(8, len(keys))):
            kept = case.states[place].pop(key)
            error = mismatch(case, tmp_path, layout=case.layout)
            plain = key.removeprefix("module.").replace(".gamma", ".weight").replace(".beta", ".bias")
            assert error.missing == [f"{part} {plain}"], key
            assert error.unknown == [], key
            assert f"missing {part} {plain}" in str(error)
            case.states[place][key] = kept


@pytest.mark.parametrize("name", CASES)
def test_every_unknown_key_is_told(tmp_path: Path, name: str) -> None:
    case = CASES[name]()
    wrapper = "module." if case.layout == "vse-infinity-bert" else ""
    case.states[0][f"{wrapper}fc2.extra\nline"] = torch.zeros(1)
    case.states[1][f"{wrapper}rnn.weight_ih_l1"] = torch.zeros(1)
    error = mismatch(case, tmp_path)
    assert error.missing == []
    assert error.unknown == ["image fc2.extra\nline", "text rnn.weight_ih_l1"]
    assert "unknown image fc2.extra line, text rnn.weight_ih_l1; --json tells every key" in str(error)


@pytest.mark.parametrize("name", ["vsrn-selfalign-f30k", "camera-selfalign"])
def test_a_third_part_is_the_codebook_and_nothing_else(tmp_path: Path, name: str) -> None:
    case = CASES[name]()
    case.states[2]["head.weight"] = torch.zeros(1)
    assert mismatch(case, tmp_path).unknown == ["extra head.weight"]


def test_another_shape_is_told(tmp_path: Path) -> None:
    case = CASES["vsrn-f30k"]()
    case.states[0]["Rs_GCN_2.phi.weight"] = torch.zeros(DIM, DIM, 3)
    case.states[0]["bn.bias"] = torch.zeros(DIM + 1)
    case.states[0]["img_rnn.bias_hh_l0"] = torch.tensor(0.0)
    error = mismatch(case, tmp_path)
    assert sorted(error.shapes) == [
        "image Rs_GCN_2.phi.weight 12x12x3 for 12x12",
        "image bn.bias 13 for 12",
        "image img_rnn.bias_hh_l0 one number for 36",
    ]
    case = CASES["camera"]()
    case.states[1]["bert.encoder.layer.1.output.dense.bias"] = torch.zeros(3)
    assert mismatch(case, tmp_path).shapes == ["text bert.encoder.layer.1.output.dense.bias 3 for 8"]
    case = CASES["vsrn-f30k"]()
    case.states[0]["fc.weight"] = torch.zeros(3)
    assert mismatch(case, tmp_path).shapes == ["image fc.weight with 1 sides for 2"]


def test_many_keys_are_counted_in_the_line_and_told_in_full(tmp_path: Path) -> None:
    case = CASES["vsrn-f30k"]()
    for key in [key for key in case.states[0] if key.startswith("Rs_GCN_3")]:
        del case.states[0][key]
    error = mismatch(case, tmp_path)
    assert len(error.missing) == 12
    assert "and 6 more; --json tells every key" in str(error)


def test_a_layout_that_is_named_is_not_guessed_away(tmp_path: Path) -> None:
    case = CASES["vsrn-selfalign-f30k"]()
    error = mismatch(case, tmp_path, layout="vsrn")
    assert error.missing == []
    assert "text local_fc.weight" in error.unknown
    assert "layout 'vsrn'" in str(error)
    assert "no layout 'vse'; choose one of vse-infinity, " in refusal(case, tmp_path, layout="vse")


def test_checkpoints_of_other_code_are_of_no_layout(tmp_path: Path) -> None:
    case = CASES["vsrn-f30k"]()
    case.states[1] = {"other.weight": torch.zeros(2)}
    assert "are of no layout that is known; 'crossalign convert --list' names them" in refusal(case, tmp_path)
    case.states[0] = {f"backbone.{key}": value for key, value in case.states[0].items()}
    assert "holds a network for photos" in refusal(case, tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": {"a": torch.zeros(1)}},
        {"model": {"a": torch.zeros(1)}},
        {"model": [{"a": torch.zeros(1)}]},
        {"model": [{"a": torch.zeros(1)}, {}]},
        {"model": [{"a": torch.zeros(1)}, {"b": "text"}]},
        {"model": [{"a": torch.zeros(1)}, {3: torch.zeros(1)}]},
        [1, 2],
        "text",
    ],
)
def test_a_file_without_two_state_dicts_is_no_checkpoint(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "model.pth"
    torch.save(content, path)
    with pytest.raises(CrossAlignError, match="no checkpoint of published retrieval code"):
        open_checkpoint(path)


def test_the_states_may_stand_alone(tmp_path: Path) -> None:
    case = CASES["camera"]()
    path = tmp_path / "model.pth"
    torch.save(case.states, path)
    done = convert_checkpoint(path, case.save_vocabulary(tmp_path / "bert", "json"), tmp_path / "model")
    assert "padded to 32 tokens" in done.converted.notes[0]
    model = RetrievalModel.from_pretrained(tmp_path / "model")
    assert model.config.text.backbone is not None
    assert model.config.text.backbone.max_length == 32


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("vse-infinity", "no_imgnorm", True),
        ("vse-infinity-bert", "no_txtnorm", True),
        ("vsrn-coco", "use_abs", True),
        ("vsrn-coco", "no_imgnorm", 1),
        ("vsrn-coco", "measure", "order"),
        ("vsrn-selfalign-coco", "ctx_relu", 0),
        ("camera-selfalign", "ctx_fc_relu", 0),
        ("scan-t2i", "no_imgnorm", True),
        ("scan-t2i", "no_txtnorm", True),
        ("scan-t2i", "num_layers", 2),
        ("scan-t2i", "cross_attn", "both"),
        ("scan-t2i", "raw_feature_norm", "sigmoid"),
        ("scan-t2i", "agg_func", ["Mean"]),
        ("scan-t2i", "lambda_softmax", 0),
        ("scan-t2i", "lambda_softmax", True),
        ("scan-t2i", "lambda_lse", "6"),
        ("scan-t2i", "lambda_lse", float("inf")),
        ("sgraf-sgr", "no_imgnorm", True),
        ("sgraf-saf", "no_txtnorm", True),
        ("sgraf-saf", "num_layers", 2),
        ("sgraf-saf", "module_name", "AVE"),
        ("sgraf-sgr", "sgr_step", 0),
        ("sgraf-sgr", "sgr_step", 2.0),
    ],
)
def test_an_option_that_no_setting_stands_for_is_refused(
    tmp_path: Path, name: str, option: str, value: Any
) -> None:
    case = CASES[name]()
    case.options[option] = value
    assert f"trained with {option}={value!r}, for which there is no setting here" in refusal(case, tmp_path)


@pytest.mark.parametrize(
    "option", ["cross_attn", "raw_feature_norm", "agg_func", "lambda_softmax", "lambda_lse"]
)
def test_scores_that_no_option_tells_are_not_guessed(tmp_path: Path, option: str) -> None:
    """VSE++ has the very keys of SCAN, and neither its options nor its scores."""
    case = CASES["scan-t2i"]()
    del case.options[option]
    assert f"its options ('opt') do not tell {option}, without which its scores are not known" in refusal(
        case, tmp_path
    )


def test_only_a_sum_of_exponentials_has_a_temperature(tmp_path: Path) -> None:
    case = CASES["scan-t2i-mean"]()
    del case.options["lambda_lse"]
    scorer = convert(case, tmp_path).converted.settings["scorer"]
    assert (scorer["aggregation"], scorer["raw_feature_norm"]) == ("Mean", "softmax")


def test_options_and_keys_that_contradict_each_other_are_told(tmp_path: Path) -> None:
    case = CASES["scan-t2i"]()
    case.options["bi_gru"] = False
    error = mismatch(case, tmp_path)
    assert error.missing == []
    assert len(error.unknown) == 4
    assert all(line.startswith("text rnn.") and line.endswith("_l0_reverse") for line in error.unknown)
    case = CASES["sgraf-sgr"]()
    case.options["module_name"] = "SAF"
    error = mismatch(case, tmp_path)
    assert "extra SAF_module.attn_sim_w.weight" in error.missing
    assert "extra SGR_module.1.sim_graph_w.bias" in error.unknown
    case = CASES["sgraf-sgr"]()
    case.options["sgr_step"] = 10**9
    error = mismatch(case, tmp_path)
    assert error.missing == [
        f"extra SGR_module.2.{name}"
        for name in (
            "graph_query_w.weight", "graph_query_w.bias", "graph_key_w.weight", "sim_graph_w.weight",
            "sim_graph_w.bias",
        )
    ]  # fmt: skip
    case.options["sgr_step"] = 1
    assert len(mismatch(case, tmp_path).unknown) == 6


@pytest.mark.parametrize("name", ["sgraf-sgr", "sgraf-saf", "sgraf-saf-one-way"])
def test_the_keys_of_sgraf_tell_what_its_options_do_not(tmp_path: Path, name: str) -> None:
    case = CASES[name]()
    told = convert(case, tmp_path / "told").converted
    case.options = {}
    done = convert(case, tmp_path / "untold").converted
    assert done.settings == told.settings
    scorer = done.settings["scorer"]
    assert (scorer["kind"], scorer["regions"], scorer["similarity_dim"]) == (name[6:9], 6, 7)
    assert scorer.get("steps") == (2 if name == "sgraf-sgr" else None)
    assert done.settings["text"]["encoder"]["bidirectional"] == (name != "sgraf-saf-one-way")
    assert f"this is {name[6:9].upper()} alone" in done.notes[0]


def test_a_similarity_of_neither_module_is_told(tmp_path: Path) -> None:
    case = CASES["sgraf-saf"]()
    del case.options["module_name"]
    for key in [key for key in case.states[2] if key.startswith("SAF_module.")]:
        del case.states[2][key]
    assert mismatch(case, tmp_path).missing == ["extra SGR_module", "extra SAF_module"]


def test_every_unknown_key_of_a_similarity_is_told(tmp_path: Path) -> None:
    case = CASES["sgraf-sgr"]()
    strangers = ["SAF_module.bn.scale", "SGR_module.0.bn.num_batches_tracked", "head.weight"]
    case.states[2].update({key: torch.zeros(1) for key in strangers})
    assert mismatch(case, tmp_path).unknown == [f"extra {key}" for key in strangers]
    case = CASES["scan-t2i"]()
    case.states.append({"gate.weight": torch.zeros(1)})
    assert mismatch(case, tmp_path).unknown == ["extra gate.weight"]


def test_a_normed_weight_of_another_kind_is_told(tmp_path: Path) -> None:
    case = CASES["scan-i2t-max"]()
    case.states[0]["fc.weight_g"] = torch.ones(DIM, 1)
    assert mismatch(case, tmp_path).shapes == ["image fc.weight_g 12x1 for one number"]
    case.states[0]["fc.weight_g"] = torch.tensor([3.0])
    convert(case, tmp_path)
    case.states[0]["fc.weight"] = torch.zeros(DIM, 10)
    (tmp_path / "both").mkdir()
    assert mismatch(case, tmp_path / "both").unknown == ["image fc.weight_v", "image fc.weight_g"]


def test_the_width_of_the_features_may_be_demanded(tmp_path: Path) -> None:
    case = CASES["vsrn-coco"]()
    assert "takes regions of 10 numbers, not 2048" in refusal(case, tmp_path, feature_dim=2048)
    assert convert(case, tmp_path, feature_dim=10).converted.feature_dim == 10


def test_what_only_training_needs_is_told(tmp_path: Path) -> None:
    assert convert(CASES["vsrn-selfalign-coco"](), tmp_path / "a").converted.left_out == (
        "extra v_prototypes.weight",
    )
    left_out = convert(CASES["vse-infinity-bert"](), tmp_path / "b").converted.left_out
    assert {line.partition(".")[0] for line in left_out} == {"image mlp", "text bert"}
    assert "text bert.pooler.dense.weight" in left_out
    assert "text bert.embeddings.position_ids" in left_out
    left_out = convert(CASES["sgraf-sgr"](), tmp_path / "c").converted.left_out
    assert set(left_out) == {
        "extra v_global_w.embedding_common.0.bias", "extra t_global_w.embedding_common.0.bias",
        "extra v_global_w.embedding_local.1.num_batches_tracked",
        "extra v_global_w.embedding_global.1.num_batches_tracked",
        "extra SGR_module.0.graph_key_w.bias", "extra SGR_module.1.graph_key_w.bias",
    }  # fmt: skip


def test_only_a_model_is_replaced(tmp_path: Path) -> None:
    case = CASES["vsrn-coco"]()
    convert(case, tmp_path)
    convert(case, tmp_path)
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(CrossAlignError, match=r"holds 'notes\.txt'"):
        convert(case, tmp_path)


# ---- vocabularies


def test_a_missing_vocabulary_is_told_with_what_is_needed(tmp_path: Path) -> None:
    for name, needed in (
        ("vsrn-coco", r"\*_vocab\.json or \*_vocab\.pkl"),
        ("camera", r"vocab\.txt and config\.json"),
    ):
        case = CASES[name]()
        checkpoint = case.save(tmp_path / "model.pth.tar", "zip")
        with pytest.raises(CrossAlignError, match=f"needs --vocab with .*{needed}"):
            convert_checkpoint(checkpoint, None, tmp_path / "model")
        with pytest.raises(CrossAlignError, match="nowhere: no such file"):
            convert_checkpoint(checkpoint, tmp_path / "nowhere", tmp_path / "model")


def test_vocabularies_of_both_kinds_of_file(tmp_path: Path) -> None:
    case = CASES["vsrn-coco"]()
    expected = {word: index for index, word in enumerate(WORDS)}
    assert read_vocabulary(case.save_vocabulary(tmp_path, "json")) == expected
    assert read_vocabulary(case.save_vocabulary(tmp_path, "pkl")) == expected
    words = read_vocabulary(FILES / "python2_vocab.pkl")
    assert sorted(words.values()) == list(range(10))
    assert words["café"] == 7


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"word2idx": {"a": "0"}}', '{"word2idx": {"a": true}}', "{", '"x"']
)
def test_a_file_that_is_no_vocabulary_is_told(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x_vocab.json"
    path.write_text(content)
    with pytest.raises(CrossAlignError, match=r"x_vocab\.json: (no vocabulary|not valid JSON)"):
        read_vocabulary(path)


def test_a_vocabulary_of_another_checkpoint_is_told(tmp_path: Path) -> None:
    case = CASES["vsrn-coco"]()
    case.states[1]["embed.weight"] = torch.zeros(99, 6)
    assert "17 words, but the checkpoint has embeddings of 99" in refusal(case, tmp_path)
    path = tmp_path / "v.json"
    path.write_text('{"word2idx": {"<pad>": 0, "<start>": 1, "<unk>": 2, "a": 4}}')
    with pytest.raises(CrossAlignError, match=r"v\.json: the vocabulary's ids are not 0, 1, 2"):
        published_tokenizer(path, 4)


def test_ids_of_published_words_are_unchanged_and_captions_have_borders() -> None:
    tokenizer = published_tokenizer(FILES / "python2_vocab.pkl", 11, mask_word=True)
    tokens, _ = tokenizer(["A DOG's t-shirt isn't a café."])
    assert tokens.tolist() == [[1, 4, 5, 3, 6, 3, 8, 4, 7, 9, 2]]
    assert tokenizer.tokenizer.token_to_id("<mask>") == 10


def test_a_bert_needs_its_words_and_settings(tmp_path: Path) -> None:
    case = CASES["camera"]()
    checkpoint = case.save(tmp_path / "model.pth.tar", "zip")
    folder = tmp_path / "bert"

    def message() -> str:
        with pytest.raises(CrossAlignError) as raised:
            convert_checkpoint(checkpoint, folder, tmp_path / "model")
        assert not (tmp_path / "model").exists()
        return str(raised.value)

    folder.mkdir()
    assert "no BERT: its folder must hold vocab.txt and config.json or bert_config.json" in message()
    case.save_vocabulary(folder, "pkl")
    (folder / "vocab.txt").write_text("\n".join(PIECES[:-1]))
    assert f"{len(PIECES) - 1} words, but the settings beside it say {len(PIECES)}" in message()
    (folder / "config.json").write_text("{}")
    assert "not the settings of a BERT" in message()
    (folder / "config.json").write_text('{"num_attention_heads": 3, "hidden_size": 8}')
    assert "its settings make no BERT" in message()
    (folder / "config.json").write_text(
        bert_config().to_json_string().replace('"num_hidden_layers": 2', '"num_hidden_layers": 1')
    )
    with pytest.raises(LayoutMismatchError) as raised:
        convert_checkpoint(checkpoint, folder, tmp_path / "model")
    assert len(raised.value.unknown) == 16
    assert all(line.startswith("text bert.encoder.layer.1.") for line in raised.value.unknown)


# ---- translation


def test_translation_by_the_longest_module_name() -> None:
    own = {
        "a.weight": torch.zeros(2),
        "a.b.weight": torch.zeros(2, 2),
        "n.num_batches_tracked": torch.tensor(0),
    }
    given = {
        "x.weight": torch.ones(2, dtype=torch.float16),
        "y.z.weight": torch.ones(2, 2, 1),
        "left": torch.ones(1),
    }
    differences = Differences()
    found = translate(own, given, {"a": "x", "a.b": "y.z", "n": "n"}, "image", differences)
    assert found.keys() == {"a.weight", "a.b.weight"}
    assert found["a.weight"].dtype == torch.float32
    assert found["a.b.weight"].shape == (2, 2)
    assert (differences.missing, differences.unknown, differences.shapes) == ([], ["image left"], [])


def test_a_folded_batch_norm_does_what_both_did() -> None:
    torch.manual_seed(0)
    linear, norm = torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4).eval()
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
        assert tensor is not None
        tensor.normal_()
    state = {f"l.{key}": value for key, value in linear.state_dict().items()}
    state |= {f"n.{key}": value for key, value in norm.state_dict().items()} | {"other": torch.ones(1)}
    folded = fold_batch_norm(state, "l", "n")
    assert folded.keys() == {"l.weight", "l.bias", "other"}
    x = torch.randn(3, 5)
    expected = norm(linear(x)).double()
    torch.testing.assert_close(
        x.double() @ folded["l.weight"].T + folded["l.bias"], expected, atol=1e-6, rtol=0
    )


def test_names_and_sources_of_the_layouts() -> None:
    names = [layout.name for layout in LAYOUTS]
    assert len(set(names)) == len(names)
    for layout in LAYOUTS:
        assert isinstance(layout, TowerLayout)
        assert "/" in layout.source


def test_options_are_those_of_the_training_script(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    states = [{"a": torch.zeros(1)}, {"b": torch.zeros(1)}]
    torch.save({"model": states, "opt": argparse.Namespace(margin=0.2)}, path)
    assert open_checkpoint(path).options == {"margin": 0.2}
    torch.save({"model": states, "opt": {"margin": 0.2}}, path)
    assert open_checkpoint(path).options == {"margin": 0.2}
    torch.save({"model": states, "opt": None}, path)
    assert open_checkpoint(path).options == {}
    for strange in (["margin"], {1: 0.2}):
        torch.save({"model": states, "opt": strange}, path)
        with pytest.raises(CrossAlignError, match=r"options \('opt'\) are neither .* save vars\(opt\)"):
            open_checkpoint(path)


def test_a_value_from_the_file_is_told_in_short(tmp_path: Path) -> None:
    case = CASES["vsrn-f30k"]()
    deep: list[Any] = []
    for _ in range(40):
        deep = [deep, deep]
    case.options["measure"] = deep
    assert len(refusal(case, tmp_path)) < 400
