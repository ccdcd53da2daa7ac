"""Run in the environment of MLflow: logs a checkpoint in the ways that MLflow knows, and says so as JSON.

``python mlflow_models.py PACKAGES URL FOLDER``: PACKAGES holds torch and transformers, which MLflow's environment has
not, and stands behind its own.
"""

import json
import sys


def main(packages: str, url: str, folder: str) -> None:
    sys.path.append(packages)
    import mlflow  # type: ignore[import-not-found]  # runs in MLflow's own environment
    import mlflow.transformers  # type: ignore[import-not-found]  # as above
    import mlflow.transformers.flavor_config as config  # type: ignore[import-not-found]  # as above
    from transformers import AutoModelForCausalLM, AutoTokenizer

    class Own(mlflow.pyfunc.PythonModel):
        def predict(self, context: object, model_input: list[str]) -> list[str]:
            return model_input

    mlflow.set_tracking_uri(url)
    client = mlflow.MlflowClient()
    with mlflow.start_run() as run:
        mlflow.log_artifacts(folder, "checkpoint")
        client.create_registered_model("plain")
        for source in (
            f"runs:/{run.info.run_id}/checkpoint",
            mlflow.get_artifact_uri("checkpoint"),
            mlflow.get_artifact_uri(),
        ):
            client.create_model_version("plain", source, run_id=run.info.run_id)
        client.create_registered_model("with space, @ and ü")
        client.create_model_version(
            "with space, @ and ü", mlflow.get_artifact_uri("checkpoint"), run_id=run.info.run_id
        )
    mlflow.pyfunc.log_model(
        name="own", python_model=Own(), artifacts={"checkpoint": folder}, pip_requirements=[],
        registered_model_name="own",
    )  # fmt: skip
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    pair = {"model": model, "tokenizer": tokenizer}
    flavour = {"task": "text-generation", "pip_requirements": []}
    mlflow.transformers.log_model(pair, name="whole", registered_model_name="whole", **flavour)
    # A hub is away in tests: what it would say of the model's name.
    mlflow.transformers.is_valid_hf_repo_id = lambda name: True
    config.get_latest_commit_for_repo = lambda name: "a" * 40
    model.name_or_path = tokenizer.name_or_path = "acme/sft"
    mlflow.transformers.log_model(pair, name="named", registered_model_name="named", save_pretrained=False, **flavour)
    print(json.dumps({"run": run.info.run_id, "mlflow": mlflow.__version__}))


if __name__ == "__main__":
    main(*sys.argv[1:])
