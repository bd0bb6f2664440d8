"""`aurora run --dry-run`: what is wrong with a chain, and the numbers of its phases."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
import yaml
from conftest import REPOSITORY
from peft import get_peft_model
from transformers import Sam2Config, Sam2VideoConfig, Sam3Config, Sam3TrackerConfig

from aurora_trl.chain.definition import load_pipeline
from aurora_trl.chain.dry_run import check_pipeline
from aurora_trl.chain.memory_estimate import TrainingSetup, estimate_memory
from aurora_trl.chain.planned_model import plan_model
from aurora_trl.chain.published_sizes import published_config, video_llama2_tokens
from aurora_trl.chain.rollout_estimate import RolloutSetup
from aurora_trl.chain.sharing import share_samples
from aurora_trl.cli import build_parser, main
from aurora_trl.data import DataError
from aurora_trl.generation.clip_loader import ClipLoader
from aurora_trl.models import (
    AuroraConfig,
    ClipMemory,
    ConceptPrompts,
    Sam2MaskConfig,
    Sam2VideoMaskConfig,
    Sam3ConceptConfig,
    Sam3MaskConfig,
)
from aurora_trl.models.mask_decoders import build_mask_decoder
from aurora_trl.training.arguments import LoraArguments
from aurora_trl.training.lora import lora_config

GROUPS = {"language_model", "seg_projector", "mask_decoder"}
SETUP = TrainingSetup(
    groups=GROUPS,
    lora=LoraArguments(use_lora=True),
    zero_stage=2,
    num_processes=2,
    offload_optimizer=False,
    batch_size=2,
    tokens=100,
    num_frames=10,
    num_generations=1,
    gradient_checkpointing=True,
    bf16=True,
    teacher=False,
)


def estimate(config, **changes):
    return estimate_memory(config, dataclasses.replace(SETUP, **changes))


def test_what_trains_is_what_the_trainer_trains(model):
    """Counted on the meta device and on the model itself."""
    memory = estimate(model.config)
    model.set_trainable(GROUPS)
    total = model.num_parameters()
    adapted = get_peft_model(model, lora_config(model, LoraArguments(use_lora=True), GROUPS))
    trained, everything = adapted.get_nb_trainable_parameters()
    assert sum(memory.trainable.values()) == trained
    assert memory.weights == 2 * everything
    text = model.config.get_text_config()
    layers, hidden, keys = text.num_hidden_layers, text.hidden_size, 2 * text.hidden_size // 4
    adapter = layers * 8 * (hidden + hidden + hidden + keys)  # A and B of the queries, of the values
    assert memory.trainable["language_model"] == adapter + 2 * text.vocab_size * hidden
    assert sum(memory.parameters.values()) < total  # what is never run belongs to no group


def test_zero_stages_by_hand(model):
    """Bytes per trained parameter: 2 gradient, 4 + 4 + 4 optimizer; each stage shares out one thing more."""
    config = model.config
    trained = sum(estimate(config).trainable.values())
    whole = estimate(config, zero_stage=0)
    assert (whole.gradients, whole.optimizer) == (2 * trained, 12 * trained)
    for stage, gradients, optimizer, weights in ((1, 1, 2, 1), (2, 2, 2, 1), (3, 2, 2, 2)):
        memory = estimate(config, zero_stage=stage)
        assert memory.gradients == 2 * trained // gradients
        assert memory.optimizer == 12 * trained // optimizer
        assert memory.weights == whole.weights // weights
    offloaded = estimate(config, offload_optimizer=True)
    assert (offloaded.optimizer, offloaded.host) == (0, 6 * trained)
    # Without DeepSpeed everything has the weights' own type, and nothing is shared out.
    config.dtype = torch.float32
    plain = estimate(config, zero_stage=None)
    assert (plain.gradients, plain.optimizer) == (4 * trained, 8 * trained)


def test_a_rollout_under_zero3_holds_all_weights():
    """TRL gathers the model on every process to generate; supervised training does not."""
    config = published_config("DAMO-NLP-SG/VideoLLaMA2.1-7B-AV", "sam_vit_h_4b8939.pth", 224)
    rollout = RolloutSetup(
        completions=4,
        num_generations=4,
        prompt_tokens=70,
        media_tokens=50,
        new_tokens=30,
        num_frames=10,
        max_objects=1,
        prefill_tokens=8192,
        mask_frames_at_once=10,
        mask_target_size=224,
        width=2,
    )
    grpo = {"num_generations": 4, "batch_size": 4, "num_processes": 8, "rollout": rollout}
    whole = estimate(config, **grpo).weights
    parts = estimate(config, zero_stage=3, **grpo)
    assert parts.weights == whole // 8
    assert whole < parts.weights + parts.activations < 1.2 * whole
    sft = {**grpo, "num_generations": 1, "rollout": None}
    assert estimate(config, zero_stage=3, **sft).activations == estimate(config, **sft).activations


def test_loading_under_zero3_by_hand(model):
    """A part of everything, the copies of what trains whole, and the largest weight of all."""
    copies = sum(estimate(model.config).trainable.values())
    largest = max(parameter.numel() for parameter in model.parameters())
    memory = estimate(model.config, zero_stage=3, num_processes=4)
    assert memory.loading == pytest.approx(memory.weights + 2 * (copies * 3 / 4 + largest), abs=8)
    assert memory.loading < memory.total
    assert estimate(model.config).loading == 0  # in the host's memory


def test_activations_grow_with_what_they_depend_on(model):
    base = estimate(model.config).activations
    assert base < estimate(model.config, gradient_checkpointing=False).activations
    assert base < estimate(model.config, batch_size=4).activations
    assert base < estimate(model.config, tokens=200).activations
    assert base < estimate(model.config, max_objects=2).activations
    assert base < estimate(model.config, groups=GROUPS | {"mask_encoder"}).activations
    assert estimate(model.config, teacher=True).weights > estimate(model.config).weights


def held_for_backward(module: torch.nn.Module, run: Callable[[], object]) -> int:
    """Bytes that autograd keeps of what `run` computes, beside the module's weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}  # kept, so that none takes the place of another

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("memory", [None, {}, {"memory_gradients": True}], ids=["frames", "memory", "gradients"])
def test_what_sam2_holds_for_its_backward(memory, model):
    """Counted where autograd keeps it: published widths of the decoder, at a quarter of the size."""
    sizes = {
        "vision_config": {"backbone_feature_sizes": [[64, 64], [32, 32], [16, 16]]},
        "prompt_encoder_config": {"image_size": 256},
    }
    if memory is None:
        decoder_config = Sam2MaskConfig(Sam2Config(**sizes))
    else:
        grid = {"memory_attention_rope_feat_sizes": [16, 16], "image_size": 256}
        dropout = {"memory_attention_dropout": 0.0, "memory_attention_rope_dropout": 0.0}
        decoder_config = Sam2VideoMaskConfig(Sam2VideoConfig(**sizes, **grid, **dropout), **memory)
    decoder = build_mask_decoder(decoder_config).requires_grad_(False)
    decoder.trainable_modules()["mask_decoder"].requires_grad_(True)
    embeddings, prompts = torch.randn(1, 5, 1024, 16, 16), torch.randn(1, 1, 256)
    held = held_for_backward(decoder, lambda: decoder.decode_clips(embeddings, prompts))

    def activations(frames: int) -> int:
        config = AuroraConfig(model.config.policy_config, decoder_config, seg_token_id=3)
        return estimate(config, num_frames=frames, batch_size=1, bf16=False).activations

    encoder = 12 * 64 * 64 * 96 * 4  # of a frame, which passes it without a backward
    one = 256 * 25 * 256 * 4
    assert activations(5) - activations(1) - 4 * encoder + one == pytest.approx(held, rel=0.1)


def test_what_sam3s_encoder_holds_for_its_backward(model):
    """Counted where autograd keeps it: published widths, fewer layers, a third of the side."""
    vision = {
        "model_type": "sam3_vision_model",
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "num_hidden_layers": 2,
            "image_size": 336,
            "global_attn_indexes": [1],
        },
    }
    sam = Sam3TrackerConfig(vision_config=vision, prompt_encoder_config={"image_size": 336})
    decoder_config = Sam3MaskConfig(sam)
    decoder = build_mask_decoder(decoder_config)
    held = held_for_backward(decoder, lambda: decoder.sam.vision_encoder(torch.randn(1, 3, 336, 336)))
    config = AuroraConfig(model.config.policy_config, decoder_config, seg_token_id=3)
    frozen, trained = (
        estimate(config, num_frames=1, batch_size=1, bf16=False, groups=GROUPS | more).activations
        for more in (set(), {"mask_encoder"})
    )
    one_pass = 14 * 1024 * 24**2 * 4  # of a frozen encoder
    assert trained - frozen + one_pass == pytest.approx(held, rel=0.1)


def test_what_sam3s_detector_holds_for_its_backward(model):
    vision = {"model_type": "sam3_vision_model", "backbone_config": {"model_type": "sam3_vit_model"}}
    vision["backbone_config"].update(num_hidden_layers=1, image_size=168, global_attn_indexes=[0])
    decoder_config = Sam3ConceptConfig(Sam3Config(vision_config=vision), max_objects=2)
    decoder = build_mask_decoder(decoder_config).requires_grad_(False)
    decoder.trainable_modules()["mask_decoder"].requires_grad_(True)
    embeddings, prompts = torch.randn(1, 1280, 12, 12), torch.randn(1, 1, 256)
    held = held_for_backward(decoder, lambda: decoder.decode(embeddings, prompts))
    config = AuroraConfig(model.config.policy_config, decoder_config, seg_token_id=3)
    one, two = (estimate(config, num_frames=n, batch_size=1, bf16=False).activations for n in (1, 2))
    encoder = 14 * 1024 * 12**2 * 4  # of a frame, which passes it without a backward
    assert two - one - encoder == pytest.approx(held, rel=0.2)


def test_the_published_sizes():
    config = published_config("DAMO-NLP-SG/VideoLLaMA2.1-7B-AV", "sam_vit_h_4b8939.pth", 224)
    parameters = estimate(config).parameters
    assert parameters["language_model"] == 7_615_616_512  # Qwen2-7B
    assert parameters["mask_encoder"] == pytest.approx(632e6, rel=0.001)  # ViT-H with the positions of 224 px
    assert parameters["vision_tower"] == pytest.approx(398e6, rel=0.001)  # SigLIP up to the layer before the last
    assert published_config("DAMO-NLP-SG/VideoLLaMA2.1-7B-AV", "other.pth") is None
    assert published_config("another/policy", "sam_vit_h_4b8939.pth") is None
    sam3 = published_config("DAMO-NLP-SG/VideoLLaMA2.1-7B-AV", "facebook/sam3")
    assert sam3.mask_decoder_config.image_size == 1008
    # Its ViT, and of the levels made of the last layer all but the coarsest.
    assert estimate(sam3).parameters["mask_encoder"] == pytest.approx(453e6, rel=0.001)
    for settings in ({"memory": ClipMemory()}, {"concepts": ConceptPrompts(5)}):
        other = published_config("DAMO-NLP-SG/VideoLLaMA2.1-7B-AV", "facebook/sam3", 336, **settings)
        assert other.mask_decoder_config.image_size == 336
        assert estimate(other).parameters["mask_decoder"] > 1.5 * estimate(sam3).parameters["mask_decoder"]
    assert [video_llama2_tokens(frames, 30) - 1496 for frames in (8, 10, 16)] == [676, 845, 1352]
    assert video_llama2_tokens(10, 10) == 845 + 496


def test_the_places_of_a_clip_are_those_of_a_row(checkpoint, rows, processor, tmp_path):
    # In a folder of its own: `outputs/tiny` may hold a demo.
    pipeline = load_pipeline(REPOSITORY / "recipes" / "tiny" / "pipeline.yaml", output_dir=tmp_path)
    plan = plan_model(pipeline, str(checkpoint))
    row = rows[0]
    ids = processor.prompt_ids(row, ClipLoader(processor).clip(row))
    places = {processor.policy_processor.video_token_id, processor.policy_processor.audio_token_id}
    assert plan.media_tokens == sum(token in places for token in ids)
    # A step that has not run is followed back to the command that builds the first model.
    assert plan_model(pipeline, str(tmp_path / "reflective")).what == "the tiny model"


@pytest.fixture
def write(checkpoint, world, tmp_path):
    """A chain of one data step and one phase that is all right, to be broken in one place."""

    def write(recipe=None, **changes):
        content = {
            "model_name_or_path": str(checkpoint),
            "dataset_path": str(tmp_path / "out" / "cot.jsonl"),
            "output_dir": str(tmp_path / "out" / "sft"),
            "max_steps": 2,
            "report_to": "none",
            "bf16": True,
            **(recipe or {}),
        }
        (tmp_path / "sft.yaml").write_text(yaml.safe_dump(content))
        command = f"aurora annotate {world} --annotator synthetic:{world} --output {{output_dir}}/cot.jsonl"
        steps = [
            {"name": "cot", "run": command, "makes": "cot.jsonl"},
            {
                "name": "sft",
                "train": str(REPOSITORY / "recipes" / "sft.py"),
                "config": "sft.yaml",
                "accelerate": str(REPOSITORY / "recipes" / "accelerate" / "zero2.yaml"),
                "makes": "sft",
                "needs": ["cot"],
            },
        ]
        for name, change in changes.items():
            next(step for step in steps if step["name"] == name).update(change)
        file = tmp_path / "chain.yaml"
        file.write_text(yaml.safe_dump({"output_dir": str(tmp_path / "out"), "seed": 1, "steps": steps}))
        return file

    return write


def test_all_is_well(write, tmp_path, capsys):
    assert main(["run", str(write()), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "sft: memory per GPU, ZeRO-2 on 2" in out
    assert "2 steps checked, all is well" in out
    assert not (tmp_path / "out").exists()


def test_a_phase_hands_on_how_many_targets_there_are(write, tmp_path):
    for said, expected in ((None, 1), (3, 3)):
        pipeline = load_pipeline(write({} if said is None else {"max_objects": said}))
        assert plan_model(pipeline, str(tmp_path / "out" / "sft")).max_objects == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": {"learning_rat": 1}}, "unknown key `learning_rat`; did you mean `learning_rate`?"),
        ({"recipe": {"targets": "nothing"}}, "`targets` must be one of"),
        ({"recipe": {"dataset_path": "no/rows.jsonl"}}, "`dataset_path` no/rows.jsonl: no such file or folder"),
        ({"recipe": {"model_name_or_path": "no/such/model"}}, "`model_name_or_path` no/such/model: no such file"),
        ({"recipe": {"output_dir": "elsewhere"}}, "`output_dir` elsewhere, but `makes`"),
        ({"recipe": {"use_lora": True, "freeze_language_model": True}}, "`use_lora` adapts the language model"),
        ({"sft": {"needs": []}}, "is what step `cot` makes: name it under `needs`"),
        ({"sft": {"train": "no/sft.py"}}, "no/sft.py: no such script"),
        ({"sft": {"accelerate": "no.yaml"}}, "accelerate config: no.yaml: no such file"),
        ({"cot": {"run": "aurora anotate x"}}, "invalid choice: 'anotate'"),
        ({"cot": {"run": "no-such-command x"}}, "no-such-command: no such command"),
        ({"cot": {"run": "aurora annotate no/data --annotator a:b --output o"}}, "`data` no/data: no such file"),
    ],
    ids=lambda value: str(next(iter(value.values())))[:40] if isinstance(value, dict) else "",
)
def test_what_is_wrong_is_named(changes, message, write, capsys):
    assert main(["run", str(write(**changes)), "--dry-run"]) == 1
    captured = capsys.readouterr()
    assert message in captured.out
    assert captured.err.strip().splitlines()[-1].startswith("error: ")


def test_a_teacher_whose_features_are_kept_takes_no_memory(write, checkpoint, tmp_path):
    teacher = {"teacher_model_name_or_path": str(checkpoint)}
    weights = [
        check_pipeline(load_pipeline(write(recipe={**teacher, **more})), build_parser())[-1].memory.weights
        for more in ({}, {"feature_cache": str(tmp_path / "features")})
    ]
    assert weights[0] == 2 * weights[1]


def test_the_tiny_recipe_in_another_folder(tmp_path):
    """Its YAMLs, moved, are not on disk yet."""
    plans = check_pipeline(
        load_pipeline(REPOSITORY / "recipes" / "tiny" / "pipeline.yaml", tmp_path / "new", 5), build_parser()
    )
    assert not [problem for plan in plans for problem in plan.problems]
    assert {plan.step.name for plan in plans if plan.memory} == {"pretrain", "teacher", "sft", "reflective", "grpo"}


def test_the_published_recipe(monkeypatch):
    """What is missing here is the data and the weights, and nothing else; every phase fits a GPU of 80 GB."""
    monkeypatch.setenv("GEMINI_API_KEY", "a key")
    for processes, longest in ((1, 70), (2, 62), (8, 62)):
        pipeline = load_pipeline(REPOSITORY / "recipes" / "videollama2" / "pipeline.yaml", num_processes=processes)
        plans = check_pipeline(pipeline, build_parser())
        for plan in plans[1:]:  # the first step needs files that only a user has
            assert all("data/refavs" in problem for problem in plan.problems)
        totals = {plan.step.name: plan.memory.total / 1024**3 for plan in plans if plan.memory}
        assert set(totals) == {"teacher", "sft", "reflective", "grpo"}
        assert 20 < max(totals.values()) < longest


def test_another_number_of_gpus_sees_as_many_samples(write):
    file = write(recipe={"gradient_accumulation_steps": 4})  # 8 at a time, by 2, 4 times: 64
    for processes, flags in (
        (1, ["--gradient_accumulation_steps", "8"]),
        (8, ["--gradient_accumulation_steps", "1"]),
        (16, ["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "1"]),
    ):
        command = load_pipeline(file, num_processes=processes).step("sft").command
        assert command[command.index("--num_processes") + 1] == str(processes)
        assert command[command.index("--config") + 2 :] == flags
    with pytest.raises(
        DataError, match=r"takes 64 samples per step \(8 at a time on 2 processes, 4 times\), which 3 "
    ):
        load_pipeline(file, num_processes=3)
    single = {"accelerate": str(REPOSITORY / "recipes" / "accelerate" / "single.yaml")}
    assert load_pipeline(write(sft=single), num_processes=1)
    with pytest.raises(DataError, match=r"on 2 processes, and accelerate starts one with .*single\.yaml; name"):
        load_pipeline(write(sft=single), num_processes=2)
    capped = write(recipe={"gradient_accumulation_steps": 4}, sft={"most_processes": 8})
    for processes, used in ((64, "8"), (4, "4")):
        command = load_pipeline(capped, num_processes=processes).step("sft").command
        assert command[command.index("--num_processes") + 1] == used
    with pytest.raises(DataError, match="`most_processes` must be a whole number of at least 1, got 'few'"):
        load_pipeline(write(sft={"most_processes": "few"}))
    file = write(recipe={"gradient_accumulation_steps": 4})
    same = load_pipeline(file)
    assert same.fingerprint(same.step("sft")) == load_pipeline(file, num_processes=8).fingerprint(same.step("sft"))
    with pytest.raises(DataError, match="has no `accelerate` config to start processes with"):
        load_pipeline(write(sft={"accelerate": None}), num_processes=2)


@pytest.mark.parametrize(
    ("settings", "processes", "flags"),
    [
        # 3 at a time, by 2, 4 times: 24, of which 3 processes take 8 each, 2 at a time.
        ({}, 3, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}),
        ({}, 24, {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}),
        ({"steps_per_generation": 8}, 1, {"gradient_accumulation_steps": 8, "steps_per_generation": 16}),
        ({"generation_batch_size": 12}, 8, {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 1}),
    ],
)
def test_a_rollout_is_shared_by_any_number_that_divides_it(settings, processes, flags):
    written = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 4, **settings}
    zero2 = str(REPOSITORY / "recipes" / "accelerate" / "zero2.yaml")
    if settings.get("generation_batch_size"):  # 12 completions can not be made by 8 processes
        with pytest.raises(DataError, match="which 8 processes can not share evenly"):
            share_samples("step", written, zero2, processes)
        return
    words = share_samples("step", written, zero2, processes)
    assert dict(zip(words[::2], map(int, words[1::2]), strict=True)) == {f"--{k}": v for k, v in flags.items()}


def test_all_phases_keep_features_in_one_folder(write, tmp_path, capsys):
    file = write()
    plain = load_pipeline(file)
    chain = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**chain, "feature_cache": "{output_dir}/features"}))
    pipeline = load_pipeline(file, output_dir=tmp_path / "new")
    assert pipeline.step("sft").command[-2:] == ["--feature_cache", f"{tmp_path}/new/features"]
    same = load_pipeline(file)
    assert same.fingerprint(same.step("sft")) == plain.fingerprint(plain.step("sft"))  # they decide no result
    assert main(["run", str(file), "--dry-run"]) == 0
    for wrong in ("{somewhere}", 3, ""):
        file.write_text(yaml.safe_dump({**chain, "feature_cache": wrong}))
        with pytest.raises(DataError, match="`feature_cache` must name a folder"):
            load_pipeline(file)


@pytest.mark.parametrize(
    ("flag", "recipe", "said"),
    [
        # 2 steps of 2 on 2 processes.
        ("", {}, "annotates all rows, of which training takes 8 at most; `--max-rows 8` there"),
        ("", {"max_train_samples": 5}, "annotates all rows, of which training takes 5 at most; `--max-rows 5` there"),
        (" --max-rows 9", {}, "annotates 9 rows, of which training takes 8 at most; `--max-rows 8` there"),
        (" --max-rows 6", {"repeat_null_rows": 3}, "data: 6 rows of step `cot`, 8 samples, null rows 3 times"),
        ("", {"max_steps": -1}, None),
    ],
)
def test_what_is_annotated_is_what_training_sees(flag, recipe, said, write, world, capsys):
    command = f"aurora annotate {world} --annotator synthetic:{world}{flag} --output {{output_dir}}/cot.jsonl"
    file = write(recipe={"per_device_train_batch_size": 2, **recipe}, cot={"run": command})
    assert main(["run", str(file), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert (said in out) if said else ("step `cot`" not in out)


def test_data_steps_run_on_the_processes_that_training_has(write, world):
    accelerate = str(REPOSITORY / "recipes" / "accelerate" / "ddp.yaml")
    command = f"aurora annotate {world} --annotator qwen-omni:q/m --output {{output_dir}}/cot.jsonl"
    file = write(recipe={"gradient_accumulation_steps": 4}, cot={"run": command, "accelerate": accelerate})
    words = load_pipeline(file, num_processes=4).step("cot").command
    assert words[:6] == ["torchrun", "--standalone", "--nproc_per_node", "4", "-m", "aurora_trl.cli"]
    assert words[6:] == load_pipeline(file, num_processes=1).step("cot").command[1:]
    assert load_pipeline(file).step("cot").command[3] == "2"  # the config's
    one, four = load_pipeline(file), load_pipeline(file, num_processes=4)
    assert one.fingerprint(one.step("cot")) == four.fingerprint(four.step("cot"))
    served = command.replace("--annotator qwen-omni:q/m", "--serve q/m")
    file = write(cot={"run": served, "accelerate": accelerate})
    assert load_pipeline(file).step("cot").command[-2:] == ["--replicas", "2"]
    for wrong in (command.replace("qwen-omni", "gemini"), "aurora synth x"):
        with pytest.raises(DataError, match="leave it out for"):
            load_pipeline(write(cot={"run": wrong, "accelerate": accelerate}))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "torchrun --nproc_per_node 2 -m aurora_trl.cli annotate {world} --annotator synthetic:{world} --output o",
            None,
        ),
        ("accelerate launch --num_processes 2 -m aurora_trl.cli anotate x", "invalid choice: 'anotate'"),
        (
            "torchrun --nproc_per_node 2 -m aurora_trl.cli annotate no/data --annotator a:b --output o",
            "no/data: no su",
        ),
        ("torchrun --nproc_per_nod 2 -x nowhere.py", "torchrun: "),
        ("torchrun --nproc_per_node 2 nowhere.py", "nowhere.py: no such script"),
        ("accelerate launch --config_file no.yaml nowhere.py", "accelerate config: no.yaml: no such file"),
        ("torchrun --nproc_per_node 2 {recipes}/sft.py --config {tmp}/other.yaml", "unknown key `learning_rat`"),
    ],
)
def test_what_a_launcher_starts_is_checked(command, message, write, world, tmp_path, capsys):
    (tmp_path / "other.yaml").write_text("model_name_or_path: m\ndataset_path: d\noutput_dir: o\nlearning_rat: 1\n")
    command = command.format(world=world, recipes=REPOSITORY / "recipes", tmp=tmp_path)
    assert main(["run", str(write(cot={"run": command})), "--dry-run"]) == (message is not None)
    out = capsys.readouterr().out
    assert (message or "all is well") in out
    assert "no such command" not in out
