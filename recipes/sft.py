"""Supervised phases: the segmentation-only teacher, chain of thought with distillation, reflective.

    accelerate launch recipes/sft.py --config recipes/tiny/teacher.yaml
    accelerate launch recipes/sft.py --config recipes/tiny/sft.yaml --learning_rate 5e-4

The phases differ by their YAML alone. Flags override it.
"""

from aurora_trl import AuroraProcessor, AuroraSFTConfig, AuroraSFTTrainer
from aurora_trl.training.arguments import LoraArguments, RecipeArguments, fail, parse_recipe, save_recipe
from aurora_trl.training.launch import prepare_run, train_and_finish
from aurora_trl.training.lora import lora_config
from aurora_trl.training.trainer_inputs import load_model


def main() -> None:
    recipe, lora, config = parse_recipe((RecipeArguments, LoraArguments, AuroraSFTConfig))
    try:
        resume = prepare_run(config, (recipe, lora, config))
        train_dataset = recipe.load_train(config)
        eval_dataset = recipe.load_eval(config)
        processor = AuroraProcessor.from_pretrained(recipe.model_name_or_path)
        loading, config.model_init_kwargs = config.model_init_kwargs, None
        model = load_model(recipe.model_name_or_path, loading, None)
        trainer = AuroraSFTTrainer(
            model=model,
            args=config,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processor,
            peft_config=lora_config(model, lora, config.trainable_groups()),
        )
    except (ValueError, OSError) as error:
        fail(error)
    config.model_init_kwargs = loading  # as it was given
    save_recipe((recipe, lora, config))
    train_and_finish(trainer, resume)


if __name__ == "__main__":
    main()
