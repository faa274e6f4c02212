import json
import sys
import warnings

import pytest
import torch

from lvad_perception.errors import CheckpointError, ConfigError, MissingDependencyError
from lvad_training.build import build_text_encoder
from lvad_training.model.text_encoders import TextEncoderMetadata, huggingface_encoder, open_clip_encoder

WORDS = ["road", "car", "traffic light", "directly drivable area."]
TINY_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
TINY_VISION = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
TINY_VIT = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}


@pytest.fixture(scope="module")
def open_clip(tmp_path_factory):
    """open_clip with small models of each layout: a ResNet, a ViT, a separate text tower with a linear projection."""
    library = pytest.importorskip("open_clip")
    folder = tmp_path_factory.mktemp("configs")
    models = {
        "tiny-RN": {"embed_dim": 24, "vision_cfg": TINY_VISION, "text_cfg": TINY_TEXT},
        "tiny-RN-wide": {"embed_dim": 24, "vision_cfg": TINY_VISION, "text_cfg": {**TINY_TEXT, "width": 32}},
        "tiny-ViT": {"embed_dim": 12, "vision_cfg": TINY_VIT, "text_cfg": TINY_TEXT},
        "tiny-custom": {
            "embed_dim": 20,
            "vision_cfg": TINY_VIT,
            "text_cfg": {**TINY_TEXT, "proj_bias": True},
            "custom_text": True,
        },
        "tiny-bidirectional": {
            "embed_dim": 20,
            "vision_cfg": TINY_VIT,
            "text_cfg": {**TINY_TEXT, "no_causal_mask": True},
        },
    }
    for name, content in models.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    library.add_model_config(folder)
    return library


def full_model(open_clip, name, **options):
    torch.manual_seed(5)
    return open_clip.create_model(name, **options).eval()


@pytest.mark.parametrize("name", ["tiny-RN", "tiny-ViT", "tiny-custom"])
def test_shortened_text_gives_what_open_clip_gives_for_all_77_tokens(open_clip, name, tmp_path):
    model = full_model(open_clip, name)
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    encoder = open_clip_encoder(name, str(tmp_path / "clip.pt"))
    with torch.no_grad():
        wanted = model.encode_text(open_clip.get_tokenizer(name)(WORDS))
    found = encoder.encode(None, WORDS)
    assert found.shape == (4, encoder.metadata.width)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["tiny-RN", "tiny-custom"])
def test_contexts_that_are_words_give_what_the_words_give(open_clip, name):
    encoder = open_clip_encoder(name, None)
    ids = open_clip.get_tokenizer(name).encode("a photo of a")
    contexts = encoder.token_embedding(torch.tensor(ids))
    torch.testing.assert_close(
        encoder.encode(contexts, ["car.", "traffic light."]),
        encoder.encode(None, ["a photo of a car.", "a photo of a traffic light."]),
        atol=1e-5,
        rtol=0,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["RN50", "ViT-B-32"])
def test_the_models_that_were_published_are_of_this_layout(open_clip, name):
    encoder = open_clip_encoder(name, None)
    torch.manual_seed(0)  # as open_clip_encoder draws them
    model = open_clip.create_model(name).eval()
    with torch.no_grad():
        wanted = model.encode_text(open_clip.get_tokenizer(name)(WORDS))
    torch.testing.assert_close(encoder.encode(None, WORDS), wanted, atol=1e-5, rtol=0)


def test_the_archive_that_openai_published_is_recognised_and_gets_its_own_gelu(open_clip, tmp_path):
    """A TorchScript file; the architecture's name does not say that it was trained with QuickGELU."""
    model = full_model(open_clip, "tiny-ViT", force_quick_gelu=True)
    tokens = open_clip.get_tokenizer("tiny-ViT")(["car"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace_module(model, {"forward": (torch.ones(1, 3, 32, 32), tokens)})
    traced.save(str(tmp_path / "ViT.pt"))
    encoder = open_clip_encoder("tiny-ViT", str(tmp_path / "ViT.pt"))
    with torch.no_grad():
        wanted = model.encode_text(open_clip.get_tokenizer("tiny-ViT")(WORDS))
    torch.testing.assert_close(encoder.encode(None, WORDS), wanted, atol=1e-5, rtol=0)
    assert encoder.metadata.name == "open_clip tiny-ViT (ViT.pt)"


def test_a_tower_is_frozen_and_only_contexts_get_gradients(open_clip, tiny_text_encoder):
    for encoder in (open_clip_encoder("tiny-RN", None), huggingface_encoder(str(tiny_text_encoder))):
        assert not encoder.train().training
        assert not any(module.training for module in encoder.modules())
        contexts = torch.randn(3, encoder.metadata.token_width, requires_grad=True)
        encoder.encode(contexts, ["car", "road"]).square().sum().backward()
        assert contexts.grad.abs().sum() > 0
        assert all(parameter.grad is None and not parameter.requires_grad for parameter in encoder.parameters())


def test_random_weights_are_always_the_same_and_do_not_disturb_chance(open_clip):
    torch.manual_seed(11)
    wanted = torch.rand(1)
    torch.manual_seed(11)
    first = open_clip_encoder("tiny-RN", None)
    assert torch.equal(torch.rand(1), wanted)
    second = open_clip_encoder("tiny-RN", None)
    assert first.metadata == second.metadata
    assert first.metadata.sha256 != open_clip_encoder("tiny-ViT", None).metadata.sha256
    assert (first.metadata.width, first.metadata.token_width) == (24, 16)


def test_autocast_does_not_change_the_embeddings(open_clip):
    encoder = open_clip_encoder("tiny-RN", None)
    contexts = torch.randn(2, 16)
    plain = encoder.encode(contexts, WORDS)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder.encode(contexts, WORDS), plain)


def test_a_hugging_face_encoder_averages_over_its_own_tokens_whatever_else_is_in_the_batch(tiny_text_encoder):
    transformers = pytest.importorskip("transformers")
    encoder = huggingface_encoder(str(tiny_text_encoder))
    model = transformers.AutoModel.from_pretrained(tiny_text_encoder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_text_encoder)
    together = encoder.encode(None, ["car", "traffic lights ."])
    for row, text in zip(together, ["car", "traffic lights ."], strict=True):
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        torch.testing.assert_close(row, hidden.mean(0), atol=1e-5, rtol=0)
    assert encoder.metadata == huggingface_encoder(str(tiny_text_encoder)).metadata
    assert (encoder.metadata.width, encoder.metadata.token_width) == (16, 16)


def test_hugging_face_contexts_act_as_the_words_that_they_are_but_do_not_count_in_the_mean(tiny_text_encoder):
    transformers = pytest.importorskip("transformers")
    encoder = huggingface_encoder(str(tiny_text_encoder))
    words = torch.tensor([7, 8])  # traffic light
    found = encoder.encode(encoder.model.get_input_embeddings()(words), ["car", "road ."])
    model = transformers.AutoModel.from_pretrained(tiny_text_encoder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_text_encoder)
    for row, text in zip(found, ["traffic light car", "traffic light road ."], strict=True):
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        torch.testing.assert_close(row, torch.cat([hidden[:1], hidden[3:]]).mean(0), atol=1e-5, rtol=0)
    assert (found - encoder.encode(None, ["car", "road ."])).abs().max() > 1e-3


def test_a_clip_text_model_of_hugging_face_gives_its_own_projection(tmp_path):
    transformers = pytest.importorskip("transformers")
    library = pytest.importorskip("open_clip")
    config = transformers.CLIPTextConfig(
        vocab_size=49408, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        projection_dim=8, eos_token_id=49407, bos_token_id=49406, pad_token_id=49407,
    )  # fmt: skip
    torch.manual_seed(9)
    model = transformers.CLIPTextModelWithProjection(config).eval()
    model.save_pretrained(tmp_path)
    simple = library.SimpleTokenizer()
    vocabulary = {
        ("<|startoftext|>", "<|endoftext|>")[i - 49406] if i >= 49406 else t: i for t, i in simple.encoder.items()
    }
    transformers.CLIPTokenizer(vocab=vocabulary, merges=list(simple.bpe_ranks)).save_pretrained(tmp_path)
    encoder = huggingface_encoder(str(tmp_path))
    ids = torch.tensor([[49406, *simple.encode("a red car"), 49407]])
    with torch.no_grad():
        wanted = model(input_ids=ids).text_embeds
    torch.testing.assert_close(encoder.encode(None, ["a red car"]), wanted, atol=1e-5, rtol=0)
    contexts = encoder.model.get_input_embeddings()(torch.tensor(simple.encode("a red")))
    torch.testing.assert_close(encoder.encode(contexts, ["car"]), wanted, atol=1e-5, rtol=0)
    assert encoder.metadata.width == 8


def test_too_long_a_prompt_is_refused(open_clip, tiny_text_encoder):
    for encoder, limit in ((open_clip_encoder("tiny-RN", None), 77), (huggingface_encoder(str(tiny_text_encoder)), 32)):
        contexts = torch.zeros(limit - 2, encoder.metadata.token_width)
        message = f"{limit - 2} contexts and the longest class name make {limit + 1} tokens, .* takes {limit}"
        with pytest.raises(ConfigError, match=message):
            encoder.encode(contexts, ["car"])


@pytest.mark.parametrize(
    ("name", "weights", "error", "message"),
    [
        ("RN5O", None, ConfigError, "open_clip has no model 'RN5O'; did you mean RN50"),
        ("tiny-bidirectional", None, ConfigError, "text encoder of tiny-bidirectional is not CLIP's"),
        ("roberta-ViT-B-32", None, ConfigError, "text encoder of roberta-ViT-B-32 is not CLIP's"),
        ("RN50", "opena", CheckpointError, r"'opena' are neither a file nor one of open_clip's tags; .* openai"),
        ("RN50", "/no/such/file.pt", CheckpointError, "'/no/such/file.pt' are neither a file nor"),
    ],
)
def test_a_wrong_open_clip_name_is_answered_with_what_there_is(open_clip, name, weights, error, message):
    with pytest.raises(error, match=message):
        open_clip_encoder(name, weights)


def test_files_that_do_not_fit_are_named(open_clip, tmp_path):
    torch.save(full_model(open_clip, "tiny-RN").state_dict(), tmp_path / "other.pt")
    with pytest.raises(
        CheckpointError, match=r"other.pt' cannot be loaded \(.*give a file with weights of tiny-RN-wide"
    ):
        open_clip_encoder("tiny-RN-wide", str(tmp_path / "other.pt"))
    (tmp_path / "text.pt").write_text("not weights")
    with pytest.raises(CheckpointError, match=r"text.pt' cannot be loaded"):
        open_clip_encoder("tiny-RN", str(tmp_path / "text.pt"))


def test_without_network_a_tag_is_answered_with_the_way_out(open_clip, monkeypatch):
    def no_network(*_args, **_options):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(sys.modules["open_clip.factory"], "download_pretrained", no_network)
    with pytest.raises(
        CheckpointError, match=r"Network is unreachable.*; connect to the network, or give a local file"
    ):
        open_clip_encoder("RN50", "openai")


@pytest.mark.parametrize(
    ("library", "opener"),
    [("open_clip", lambda: open_clip_encoder("RN50", None)), ("transformers", lambda: huggingface_encoder("folder"))],
)
def test_a_missing_library_is_named_with_its_remedy(library, opener, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingDependencyError, match=rf"needs {library}; pip install"):
        opener()


def test_wrong_hugging_face_folders_are_named(tiny_text_encoder, tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(CheckpointError, match=r"missing: no such folder; give model.language.text_encoder.name"):
        huggingface_encoder(str(tmp_path / "missing"))
    with pytest.raises(CheckpointError, match=r"cannot be loaded .*config.json, weights and the tokenizer's files"):
        huggingface_encoder(str(tmp_path))
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny_text_encoder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(broken / "model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if "layer.1" not in name},
        broken / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(CheckpointError, match=r"of its tensors are not in the weights file, first encoder.layer.1"):
        huggingface_encoder(str(broken))


def test_a_recipe_names_its_text_encoder(open_clip, tiny_text_encoder, make_recipe):
    def opened(**section):
        model = {"network_hw": [64, 96], "language": {"text_encoder": section} if section else None}
        return build_text_encoder(make_recipe(model=model).model)

    assert opened() is None
    assert (
        opened(kind="open_clip", name="tiny-RN", weights=None).metadata == open_clip_encoder("tiny-RN", None).metadata
    )
    found = opened(kind="huggingface", name=str(tiny_text_encoder))
    assert found.metadata == huggingface_encoder(str(tiny_text_encoder)).metadata
    assert found.metadata.name.endswith(f"/{tiny_text_encoder.name}")


def test_metadata_are_plain_values_and_identify_the_encoder():
    metadata = TextEncoderMetadata("open_clip RN50 (openai)", "a" * 64, 1024, 512)
    assert TextEncoderMetadata.from_dict(json.loads(json.dumps(metadata.to_dict()))) == metadata
    assert TextEncoderMetadata.from_dict(None) is None
    metadata.check_same(None, source="model.pt")
    metadata.check_same(TextEncoderMetadata("elsewhere", "a" * 64, 1024, 512), source="model.pt")
    with pytest.raises(CheckpointError, match=r"model.pt: its prompts were learned with the text encoder other, not"):
        metadata.check_same(TextEncoderMetadata("other", "b" * 64, 1024, 512), source="model.pt")
