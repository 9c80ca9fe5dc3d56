"""One variable says where steps run; the assets are the same, and say there what they ask for."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import dagster as dg
import pytest

from lance_assets import extras
from lance_assets.assets.deploying import slurm
from lance_assets.assets.deploying.deployment import (
    DEPLOYMENTS,
    POD_REFUSAL,
    check_command,
    find_deployment,
    read_max_concurrent,
)
from lance_assets.assets.deploying.requests import check_requests, find_request, tag_step
from lance_assets.assets.graph import build_experiment
from lance_assets.assets.names import find_key
from lance_assets.assets.running.executor import build_executor, explain_killed
from lance_assets.assets.running.platform import PlatformResource
from lance_assets.cli.app import main
from lance_assets.home import list_folders
from lance_assets.rounds.experiments import find_plan, load_plans
from lance_assets.rounds.nouns import NOUNS, list_nouns
from lance_assets.settings.engines import StepRequest
from lance_assets.settings.variables import find_named, list_told
from resources.machine.processes import kill_with_descendants
from tests.assets import scripted_slurm
from tests.assets.slurm_job import build_job

LIBRARIES = {"ray": "dagster_ray", "k8s": "dagster_k8s"}


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's commands on the PATH; the folder that they keep jobs in."""
    monkeypatch.setenv("PATH", scripted_slurm.put_on_path(scripted_slurm.install(tmp_path / "slurm")))
    return tmp_path / "slurm"


@pytest.fixture(params=sorted(DEPLOYMENTS))
def deployment(request: pytest.FixtureRequest, commands: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each deployment whose library is installed."""
    if request.param in LIBRARIES and find_spec(LIBRARIES[request.param]) is None:
        pytest.skip(f"{LIBRARIES[request.param]} is not installed: pip install -e '.[{request.param}]'")
    monkeypatch.setenv("LANCE_DEPLOYMENT", request.param)
    return request.param


def test_an_unknown_deployment_is_told_with_those_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANCE_DEPLOYMENT", "rays")
    with pytest.raises(ValueError, match="is 'rays'; set it to one of local, ray, slurm, k8s, or leave it"):
        find_deployment()
    monkeypatch.setenv("LANCE_DEPLOYMENT", "")
    assert find_deployment().name == "local"


@pytest.mark.parametrize("value", ["many", "0", "-1"])
def test_how_many_steps_is_a_number_of_steps(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LANCE_MAX_CONCURRENT", value)
    with pytest.raises(ValueError, match=f"LANCE_MAX_CONCURRENT is '{value}'; set it to a number of steps, 1 or more"):
        read_max_concurrent()


@pytest.mark.parametrize("name", sorted(LIBRARIES))
def test_a_library_that_is_not_installed_is_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda module: None)
    monkeypatch.setenv("LANCE_DEPLOYMENT", name)
    told = rf"LANCE_DEPLOYMENT={name} needs the library {LIBRARIES[name]}, .* pip install .*\[{name}\]"
    with pytest.raises(ValueError, match=told):
        build_executor(tmp_path)


def test_slurm_without_its_client_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("LANCE_DEPLOYMENT", "slurm")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(ValueError, match="LANCE_DEPLOYMENT=slurm needs Slurm's command sbatch, which is not"):
        build_executor(tmp_path)
    # A job of Slurm may be on a node without it.
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert build_executor(tmp_path).name == "slurm"


def test_a_command_runs_rounds_but_where_a_launcher_makes_the_pods(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], project_root: Path
) -> None:
    for name in sorted({*DEPLOYMENTS} - {"k8s"}):
        monkeypatch.setenv("LANCE_DEPLOYMENT", name)
        check_command()
    monkeypatch.setenv("LANCE_DEPLOYMENT", "k8s")
    monkeypatch.setattr(sys, "argv", ["lance", "run", "mini_lance"])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err
    assert (ended.value.code, told) == (2, f"lance: {POD_REFUSAL}\n")
    page = (project_root / "docs" / "deploy" / "eight-gpus.md").read_text()
    (quoted,) = re.findall(r"\| `(with LANCE_DEPLOYMENT=k8s .*) …` \|", page)
    assert told.startswith(f"lance: {quoted}")


def test_a_run_that_no_launcher_made_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Such as one of `dagster dev` on a laptop, whose variables are those of the cluster."""
    pytest.importorskip("dagster_k8s", reason="dagster_k8s is not installed: pip install -e '.[k8s]'")
    monkeypatch.setenv("LANCE_DEPLOYMENT", "k8s")
    monkeypatch.setenv("LANCE_HOME", str(tmp_path))
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance, pytest.raises(ValueError, match=POD_REFUSAL[:40]):
        dg.execute_job(dg.reconstructable(build_job), instance)


KEYS = {"AWS_SECRET_ACCESS_KEY": "1", "HF_TOKEN": "2", "LANCE_SERVER_LOGIN": "3", "HF_ENDPOINT": "https://me:4@mirror"}
"""Variables that hold a key: by their names, because an experiment says so, and by the value."""


def choose_value(name: str) -> str:
    """Another value than any default for a variable that a packaged experiment names."""
    if name.endswith("_PROFILE"):
        return "full_zh"
    return "some/model" if name.endswith("_MODEL") else str(Path(__file__).parents[2] / "pyproject.toml")


def test_a_job_of_ray_reads_the_experiments_that_its_run_reads(
    monkeypatch: pytest.MonkeyPatch, project_root: Path
) -> None:
    """It has the variables that it is given, and no other: with a default it would make another round."""
    monkeypatch.setenv("LANCE_EXPERIMENTS", f"{project_root / 'deploy' / 'experiments'}:shipped")
    by_default = {name: plan.settings for name, plan in load_plans().items()}
    named, _ = find_named(list_folders())
    assert {"QWEN2_MODEL", "QWEN2_72B_MODEL", "GSM8K_TEST", "LANCE_SEEDS"} <= named
    # A step's own: known where it runs.
    assert "SLURM_CPUS_PER_TASK" not in named
    for name in named:
        monkeypatch.setenv(name, choose_value(name))
    started = {name: plan.settings for name, plan in load_plans().items()}
    told = list_told()
    for name in {*os.environ} - {*told}:
        monkeypatch.delenv(name)
    read = {name: plan.settings for name, plan in load_plans().items()}
    assert read == started
    differ = {name for name in started if started[name] != by_default[name]}
    assert {"qwen2_7b_lance_8gpu", "qwen2_72b_lance_64gpu", "smollm2_lance", "gsm8k_lance"} <= differ


def test_a_job_of_ray_is_told_where_the_store_is_and_no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "mine" / "defs.yaml"
    file.parent.mkdir()
    file.write_text(
        "attributes: {model: '${MY_MODEL:-a}/${MY_SIZE}', engine: {api_key_env: LANCE_SERVER_LOGIN},\n"
        "  judge: {name: '${MY_PASSWORD}'}, training: {launcher: [run, '${MY_TASKS}']}}"
    )
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "defs.yaml").write_text("a: [")
    told = {"MY_MODEL": "b", "MY_SIZE": "7", "LANCE_STORE": "s3://bucket/lance", "LANCE_EXPERIMENTS": str(tmp_path)}
    told |= {"AWS_ENDPOINT_URL": "http://objects:8333", "AWS_REGION": "x", "AWS_PROFILE": "lab", "HF_HOME": "/models"}
    for name, value in (told | KEYS | {"MY_PASSWORD": "5", "MY_TASKS": "6", "MINE": "7"}).items():
        monkeypatch.setenv(name, value)
    found = list_told()
    assert found.items() >= told.items()
    assert not found.keys() & {*KEYS, "MY_PASSWORD", "MY_TASKS", "MINE", "RAY_ADDRESS", "HOME"}


def test_the_definitions_load_under_each_deployment(deployment: str, tmp_path: Path) -> None:
    """With the executor of the deployment, and what each step asks for in its words."""
    plan = find_plan("qwen2_7b_lance_8gpu")
    executor = build_executor(tmp_path)
    named = {"local": "multiprocess", "ray": "ray", "slurm": "slurm", "k8s": "k8s"}[deployment]
    assert executor.name == named
    own = dg.Definitions(executor=executor, resources={"platform": PlatformResource(data_root=str(tmp_path))})
    defs = dg.Definitions.merge(build_experiment(plan), own)
    tags = {
        noun: defs.resolve_assets_def(find_key(plan, noun)).op.tags
        for noun in ("raw_generations", "sft_set", "checkpoint")
    }
    gpus = {noun: read_gpus(deployment, {**asked}) for noun, asked in tags.items()}
    wanted = {"raw_generations": 8, "sft_set": 0, "checkpoint": 8}
    assert gpus == (dict.fromkeys(wanted) if deployment == "local" else wanted)


def read_gpus(deployment: str, tags: dict) -> int | None:
    """The GPUs that a step's tags ask for; None where they ask for nothing."""
    if deployment == "local":
        assert not tags
        return None
    ((name, text),) = tags.items()
    asked = json.loads(text)
    if deployment == "k8s":
        resources = asked["container_config"]["resources"]
        return int(resources["limits"].get("nvidia.com/gpu", 0))
    assert name == {"ray": "dagster-ray/config", "slurm": "lance/slurm"}[deployment]
    return asked["num_gpus"]


def test_a_file_says_what_a_step_asks_for() -> None:
    plan = find_plan("mini_lance")
    said = {"any": StepRequest(num_cpus=2), "checkpoint": StepRequest(num_gpus=3, memory_gib=40)}
    asking = change(plan, requests=said)
    assert find_request(asking, NOUNS["checkpoint"]) == said["checkpoint"]
    assert find_request(asking, NOUNS["sft_set"]) == StepRequest(num_cpus=2, num_gpus=0)
    assert find_request(plan, NOUNS["checkpoint"]) == StepRequest(num_cpus=1, num_gpus=0)
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="requests names checkpont, and the experiment"):
        check_requests(change(plan, requests={"checkpont": StepRequest()}), list(NOUNS.values()))


def test_training_asks_for_a_gpu_for_each_of_its_processes() -> None:
    plan = find_plan("mini_lance")
    on_gpu = {"engine": plan.settings.engine.model_copy(update={"device": "cuda"})}
    training = plan.settings.training.model_copy(update={"num_processes": 4})
    asking = change(plan, training=training, **on_gpu)
    gpus = {noun: find_request(asking, NOUNS[noun]).num_gpus for noun in ("checkpoint", "raw_generations", "sft_set")}
    assert gpus == {"checkpoint": 4, "raw_generations": 1, "sft_set": 0}


SHARED = "distributed_type: FSDP\nnum_processes: 16\nnum_machines: 2\n"


def train_on_machines(folder: Path, *, requests: dict | None = None, **training: object):
    """A plan whose model is trained on GPUs, with a configuration of 16 processes on two machines at hand."""
    (folder / "fsdp.yaml").write_text(SHARED)
    plan = find_plan("mini_lance")
    engine = plan.settings.engine.model_copy(update={"device": "cuda"})
    changed = plan.settings.training.model_copy(update=training)
    asked = {name: StepRequest(**said) for name, said in (requests or {}).items()}
    return replace(change(plan, engine=engine, training=changed, requests=asked), folder=folder)


LAUNCHED = {"launcher": ("srun",), "accelerate_config": "fsdp.yaml"}


def test_training_on_several_machines_is_one_job_of_so_many_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step that trains alone; and its GPUs are asked for on each node."""
    monkeypatch.setenv("LANCE_DEPLOYMENT", "slurm")
    own = {"any": {"num_cpus": 4}, "checkpoint": {"num_cpus": 32, "memory_gib": 512, "num_nodes": 2}}
    torchrun = {"launcher": ("srun", "torchrun", "--nnodes=2", "--nproc-per-node=4"), "num_processes": 8}
    for plan, training, other in (
        (train_on_machines(tmp_path, **LAUNCHED), "--nodes=2 --ntasks-per-node=1 --cpus-per-task=1 --gres=gpu:8", "1"),
        (
            train_on_machines(tmp_path, requests=own, **torchrun),
            "--nodes=2 --ntasks-per-node=1 --cpus-per-task=32 --gres=gpu:4 --mem=524288M",
            "4",
        ),
    ):
        check_requests(plan, list_nouns(plan))
        (asked,) = tag_step(plan, NOUNS["checkpoint"]).values()
        assert slurm.build_arguments(asked) == training.split()
        (asked,) = tag_step(plan, NOUNS["raw_generations"]).values()
        assert slurm.build_arguments(asked) == f"--ntasks=1 --cpus-per-task={other} --gres=gpu:1".split()


@pytest.mark.parametrize(("name", "job"), [("ray", "a job of Ray"), ("k8s", "a pod")])
def test_a_job_that_has_one_machine_is_not_asked_for_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, job: str
) -> None:
    monkeypatch.setenv("LANCE_DEPLOYMENT", name)
    with pytest.raises(dg.DagsterInvalidDefinitionError, match=f"num_nodes 2 to train on, and {job} has one machine"):
        tag_step(train_on_machines(tmp_path, **LAUNCHED), NOUNS["checkpoint"])
    assert tag_step(train_on_machines(tmp_path, **LAUNCHED), NOUNS["sft_set"])


@pytest.mark.parametrize(
    ("requests", "training", "told"),
    [
        ({"any": {"num_nodes": 2}}, LAUNCHED, "requests.any.num_nodes is 2, and only a step that trains"),
        ({"raw_generations": {"num_nodes": 3}}, LAUNCHED, "raw_generations.num_nodes is 3, and only a step that"),
        ({"checkpoint": {"num_nodes": 2}}, {"num_processes": 2}, "nothing starts training on the other machines"),
        ({}, {"accelerate_config": "fsdp.yaml"}, "has num_machines 2, and one step .* add training.launcher"),
        ({"checkpoint": {"num_nodes": 3}}, LAUNCHED, "requests.checkpoint.num_nodes is 3, and .* num_machines 2"),
        (
            {"any": {"num_nodes": 1}},
            LAUNCHED,
            "requests.any.num_nodes is 1, and .* requests.label_checkpoint.num_nodes: 2",
        ),
        (
            {"any": {"num_nodes": 1}, "label_checkpoint": {"num_cpus": 2, "num_nodes": 2}},
            LAUNCHED,
            "requests.any.num_nodes is 1, and .* requests.checkpoint.num_nodes: 2",
        ),
        (
            {"checkpoint": {"num_nodes": 2}},
            {"launcher": ("srun", "torchrun")},
            "differs: label_checkpoint on 1 and checkpoint on 2; training.launcher starts both alike",
        ),
    ],
)
def test_machines_that_nothing_starts_are_told(tmp_path: Path, requests: dict, training: dict, told: str) -> None:
    plan = train_on_machines(tmp_path, requests=requests, **training)
    with pytest.raises(dg.DagsterInvalidDefinitionError, match=told):
        check_requests(plan, list(NOUNS.values()))


def test_both_steps_that_train_have_the_machines_that_are_started(tmp_path: Path) -> None:
    both = {name: {"num_nodes": 2} for name in ("checkpoint", "label_checkpoint")}
    check_requests(train_on_machines(tmp_path, requests=both, launcher=("srun",)), list(NOUNS.values()))
    for requests in ({}, both, {"any": {"num_cpus": 4}}, {"any": {"num_nodes": 1}} | both):
        check_requests(train_on_machines(tmp_path, requests=requests, **LAUNCHED), list(NOUNS.values()))
    # Where one step trains there is nothing to differ from.
    plan = train_on_machines(tmp_path, requests={"checkpoint": {"num_nodes": 2}}, launcher=("srun",))
    check_requests(plan, list_nouns(plan))


def test_machines_share_processes_equally(tmp_path: Path) -> None:
    plan = train_on_machines(
        tmp_path, requests={"checkpoint": {"num_nodes": 3}}, launcher=("srun", "torchrun"), num_processes=8
    )
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="trains in 8 processes on 3 machines, which cannot"):
        find_request(plan, NOUNS["checkpoint"])


def change(plan, **settings: object):
    """A plan with other settings."""
    return replace(plan, settings=plan.settings.model_copy(update=settings))


def test_a_step_whose_job_ended_without_a_word_was_killed() -> None:
    """So that the run is started again from it, as one whose process was killed on this machine."""
    for said, is_killed in (("failed health check: job 7 of Slurm ended as NODE_FAIL", True), ("failed", False)):
        error = dg._utils.error.SerializableErrorInfo(f"Step a {said}", [], None)
        event = dg.DagsterEvent(
            "STEP_FAILURE", "job", step_key="a", event_specific_data=dg._core.events.StepFailureData(error, None)
        )
        assert bool(explain_killed(event)) == is_killed


@pytest.fixture
def home(tmp_path: Path, commands: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose jobs run on the scripted Slurm, or on a real one where LANCE_TEST_SLURM is set."""
    if os.environ.get("LANCE_TEST_SLURM"):
        monkeypatch.setenv("PATH", os.pathsep.join([*os.environ["PATH"].split(os.pathsep)[1:]]))
    place = tmp_path / "home"
    place.mkdir()
    for name, value in {"LANCE_DEPLOYMENT": "slurm", "LANCE_HOME": str(place), "DAGSTER_HOME": str(place)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(slurm, "HEALTH_SECONDS", 1)
    return place


@pytest.mark.slow
def test_each_step_is_a_job_of_slurm(home: Path, commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANCE_SLURM_ARGS", "--comment='two words'")
    with dg.DagsterInstance.get() as instance:
        assert dg.execute_job(dg.reconstructable(build_job), instance).success
    assert (home / "result").read_text() == "21"
    assert (home / "first.pid").read_text() != str(os.getpid())
    assert len(list((home / "slurm").iterdir())) == 2
    if not os.environ.get("LANCE_TEST_SLURM"):
        asked = (commands / "job101.arguments").read_text().splitlines()
        assert {"--no-requeue", "--cpus-per-task=2", "--mem=512M"} <= set(asked)
        assert asked[-1] == "--comment=two words"


@pytest.mark.slow
def test_a_job_that_slurm_ends_is_a_step_that_was_lost(home: Path) -> None:
    (home / "wait").touch()
    threading.Thread(target=cancel_first, args=(home,), daemon=True).start()
    with dg.DagsterInstance.get() as instance:
        result = dg.execute_job(dg.reconstructable(build_job), instance)
        assert not result.success
        (failure,) = [event for event in result.all_events if event.is_step_failure]
        # A real Slurm sends a signal first, which the step itself tells of; the scripted one kills.
        said = explain_killed(failure, is_elsewhere=True)
        assert said.endswith(("job 101 of Slurm ended as CANCELLED", "first was ended by its cluster"))
        assert instance.get_run_by_id(result.run_id).tags["lance/lost"] == f"{result.run_id} {said}"
    assert not (home / "result").exists()


def cancel_first(home: Path) -> None:
    """End the first job once its step is at work."""
    while not (home / "first.pid").exists():
        time.sleep(0.1)
    (log,) = (home / "slurm").iterdir()
    subprocess.run(["scancel", log.stem.rpartition("-")[2]], check=True)


@pytest.mark.slow
def test_each_step_is_a_job_of_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a node that this test starts; and what is secret in the environment is not given to Ray, which shows it."""
    if find_spec("dagster_ray") is None or find_spec("ray") is None:
        pytest.skip("dagster_ray is not installed: pip install -e '.[ray]'")
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        port, dashboard = one.getsockname()[1], other.getsockname()[1]
    place = tmp_path / "home"
    place.mkdir()
    known = {"LANCE_DEPLOYMENT": "ray", "LANCE_HOME": str(place), "DAGSTER_HOME": str(place)}
    known |= {"DAGSTER_POSTGRES_PASSWORD": "not-for-ray", "PYTHONPATH": os.getcwd()}
    known |= {"RAY_DASHBOARD_STARTUP_TIMEOUT_S": "600", "RAY_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    assert "not-for-ray" not in str(find_deployment().choose_executor()[1])
    ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--head", "--block"]
    ray += [f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=1", "--disable-usage-stats"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with subprocess.Popen(ray, stdout=subprocess.DEVNULL, env=environment, start_new_session=True) as node:
        try:
            wait_for_node(os.environ["RAY_ADDRESS"])
            with dg.DagsterInstance.get() as instance:
                assert dg.execute_job(dg.reconstructable(build_job), instance).success
        finally:
            kill_with_descendants(node.pid)
    assert (place / "result").read_text() == "21"


def wait_for_node(address: str) -> None:
    """Wait until a cluster takes a job: the node's own part answers later than the cluster's."""
    from ray.job_submission import JobSubmissionClient

    for _ in range(600):
        try:
            JobSubmissionClient(address).submit_job(entrypoint="true")
            return
        except (OSError, RuntimeError):
            time.sleep(1)
    raise TimeoutError(address)
