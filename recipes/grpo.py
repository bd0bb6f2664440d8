"""GRPO with format, class and IoU rewards from decoded masks.

    accelerate launch recipes/grpo.py --config recipes/tiny/grpo.yaml
    accelerate launch recipes/grpo.py                    # the tiny recipe, and first whatever it needs and does not
    find

Flags override the YAML.
"""

import sys

from aurora_trl import AuroraGRPOConfig, AuroraGRPOTrainer, AuroraProcessor
from aurora_trl.chain.tiny_phase import tiny_phase_arguments
from aurora_trl.training.arguments import LoraArguments, RecipeArguments, fail, parse_recipe, save_recipe
from aurora_trl.training.launch import prepare_run, train_and_finish
from aurora_trl.training.lora import lora_config
from aurora_trl.training.rewards import get_reward
from aurora_trl.training.trainer_inputs import load_model


def main() -> None:
    argv = sys.argv[1:] or tiny_phase_arguments("grpo")
    recipe, lora, config = parse_recipe((RecipeArguments, LoraArguments, AuroraGRPOConfig), argv)
    try:
        resume = prepare_run(config, (recipe, lora, config), argv)
        rewards = [get_reward(name) for name in config.reward_functions]
        train_dataset = recipe.load_train(config)
        eval_dataset = recipe.load_eval(config)
        processor = AuroraProcessor.from_pretrained(recipe.model_name_or_path)
        loading, config.model_init_kwargs = config.model_init_kwargs, None
        model = load_model(recipe.model_name_or_path, loading, None)
        trainer = AuroraGRPOTrainer(
            model=model,
            reward_funcs=rewards,
            args=config,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processor,
            peft_config=lora_config(model, lora, config.trainable_groups()),
        )
    except (ValueError, OSError) as error:
        fail(error)
    config.model_init_kwargs = loading  # as it was given
    save_recipe((recipe, lora, config), argv)
    train_and_finish(trainer, resume)


if __name__ == "__main__":
    main()
