"""Supervised phases: the segmentation-only teacher, chain of thought with distillation, reflective.

    accelerate launch recipes/sft.py --config recipes/tiny/teacher.yaml
    accelerate launch recipes/sft.py --config recipes/tiny/sft.yaml --learning_rate 5e-4

The phases differ by their YAML alone. Flags override it.
"""

from aurora_trl import AuroraModel, AuroraProcessor, AuroraSFTConfig, AuroraSFTTrainer
from aurora_trl.data.validation import require_valid
from aurora_trl.training.arguments import LoraArguments, RecipeArguments, fail, load_rows, parse_recipe, save_recipe
from aurora_trl.training.mask_training import lora_config
from aurora_trl.training.run import finish, prepare_run


def main() -> None:
    recipe, lora, config = parse_recipe((RecipeArguments, LoraArguments, AuroraSFTConfig))
    try:
        resume = prepare_run(config)
        train_dataset = load_rows(recipe.dataset_path, recipe.train_split, recipe.max_train_samples, config.seed)
        require_valid(train_dataset)
        eval_dataset = None
        if recipe.eval_split is not None:
            eval_path = recipe.eval_dataset_path or recipe.dataset_path
            eval_dataset = load_rows(eval_path, recipe.eval_split, recipe.max_eval_samples, config.seed)
            require_valid(eval_dataset)
        model = AuroraModel.from_pretrained(recipe.model_name_or_path)
        processor = AuroraProcessor.from_pretrained(recipe.model_name_or_path)
        teacher = None
        if config.teacher_model_name_or_path is not None:
            teacher = AuroraModel.from_pretrained(config.teacher_model_name_or_path)
        trainer = AuroraSFTTrainer(
            model=model,
            args=config,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processor,
            teacher=teacher,
            peft_config=lora_config(model, lora, config.trainable_groups()),
        )
    except (ValueError, OSError) as error:
        fail(error)
    save_recipe((recipe, lora, config))
    trainer.train(resume_from_checkpoint=resume)
    finish(trainer)


if __name__ == "__main__":
    main()
