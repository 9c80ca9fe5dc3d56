"""The files that deploy it: they can be read, what they name exists, and no secret stands in them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from lance_assets.assets.deploying.deployment import DEPLOYMENTS
from lance_assets.assets.deploying.instance import INSTANCE_FILE, POSTGRES
from lance_assets.rounds.experiments import load_plans
from lance_assets.settings.engines import StepRequest

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
VALUES = yaml.safe_load((DEPLOY / "helm" / "values.yaml").read_text())
CLUSTER = yaml.safe_load((DEPLOY / "helm" / "raycluster.yaml").read_text())
(LOCATION,) = VALUES["dagster-user-deployments"]["deployments"]
IS_SECRET = re.compile("(?i)password|secret|access_key|token")


def walk(value: object, name: str = "") -> list[tuple[str, object]]:
    """Every value of a file that holds no others, with the name that it stands under."""
    if isinstance(value, dict):
        # Kubernetes names a variable beside its value.
        own = str(value["name"]) if {"name", "value"} <= value.keys() else ""
        return [pair for key, each in value.items() for pair in walk(each, own if key == "value" else str(key))]
    if isinstance(value, list):
        return [pair for each in value for pair in walk(each, name)]
    return [(name, value)]


@pytest.mark.parametrize("file", sorted(DEPLOY.rglob("*.yaml")), ids=lambda file: file.name)
def test_no_secret_stands_in_a_file(file: Path) -> None:
    """A value under a secret's name is asked of the environment, or is the name of a Secret, or empty."""
    found = [(name, value) for name, value in walk(yaml.safe_load(file.read_text())) if IS_SECRET.search(name)]
    for name, value in found:
        is_from_outside = isinstance(value, str) and re.fullmatch(r"\$\{\w+:\?[^}]+\}", value)
        assert is_from_outside or name.endswith("SecretName") or value in ("", False), f"{name}: {value}"


def test_the_example_of_the_environment_names_every_secret_and_none_of_its_values() -> None:
    given = dict(line.split("=", 1) for line in (DEPLOY / "env.example").read_text().splitlines() if "=" in line)
    needed = set(re.findall(r"\$\{(\w+):\?", (DEPLOY / "compose.yaml").read_text()))
    assert set(given) == needed
    assert not any(given.values())
    assert "deploy/.env" in (ROOT / ".gitignore").read_text().splitlines()


def test_every_service_of_compose_has_what_it_needs() -> None:
    services = COMPOSE["services"]
    assert {"code", "webserver", "daemon", "postgres", "objects"} == set(services)
    for name in ("code", "webserver", "daemon"):
        service = services[name]
        assert set(POSTGRES) <= set(service["environment"]), name
        assert service["environment"]["LANCE_DEPLOYMENT"] in DEPLOYMENTS
        assert "data:/lance" in service["volumes"]
    volumes = {volume.split(":")[0] for each in services.values() for volume in each["volumes"]}
    assert {one for one in volumes if one.isidentifier()} == set(COMPOSE["volumes"])
    # Only this machine reaches what listens.
    ports = [port for each in services.values() if "ports" in each for port in each["ports"]]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    (location,) = yaml.safe_load((DEPLOY / "workspace.yaml").read_text())["load_from"]
    assert location["grpc_server"]["host"] in services


def test_what_the_image_copies_exists_and_is_sent_to_the_builder() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    copied = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    sent = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert set(copied) == sent
    extras = set(next(line for line in lines if line.startswith("ARG EXTRAS=")).partition("=")[2].split(","))
    known = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert extras <= set(known)


def find_linter(name: str) -> str:
    """A program of the deployments' environment; a test that needs it is skipped elsewhere."""
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if found is None:
        pytest.skip(f"{name} is not installed: make test-deploy installs it")
    return found


def lint(*command: str) -> None:
    """Run a linter, which finds nothing."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    lint(find_linter("hadolint"), "--no-color", str(DEPLOY / "Dockerfile"))


def test_the_compose_file_follows_composes_own_schema() -> None:
    """That of the Compose specification, which the checker brings along."""
    lint(find_linter("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml"))


def test_the_values_of_helm_follow_the_charts_schema() -> None:
    """The chart's own file is not kept here."""
    schema = os.environ.get("LANCE_TEST_HELM_SCHEMA")
    if not schema:
        pytest.skip("LANCE_TEST_HELM_SCHEMA is not set to values.schema.json of the chart (helm pull dagster/dagster)")
    lint(find_linter("check-jsonschema"), "--schemafile", schema, str(DEPLOY / "helm" / "values.yaml"))


BUILT = re.compile(r"docker build \S+ deploy/Dockerfile --build-arg EXTRAS=(\S+)")


def test_the_image_that_a_page_builds_has_what_its_page_needs() -> None:
    """Everything that a pod may be told to use: the store, the engine, PostgreSQL, and both kinds of steps."""
    (extras,) = BUILT.findall((ROOT / "docs" / "deploy" / "kubernetes.md").read_text())
    assert {"postgres", "k8s", "ray", "s3", "vllm"} == set(extras.split(","))
    comment = (DEPLOY / "Dockerfile").read_text().partition("FROM")[0]
    assert all(re.search(rf"\b{extra}\b", comment) for extra in extras.split(","))


def test_the_commands_of_the_image_are_those_that_are_asked_for() -> None:
    script = (DEPLOY / "start.sh").read_text()
    known = re.findall(r"^(\w+)\) exec ", script, flags=re.MULTILINE)
    prepared = re.findall(r"^([\w |]+)\)$", script, flags=re.MULTILINE)
    assert prepared == [" | ".join([*known, "lance"])]
    asked = [service["command"][0] for service in COMPOSE["services"].values() if "build" in service]
    assert sorted(asked) == sorted(known)
    assert (DEPLOY / "start.sh").stat().st_mode & 0o111
    assert subprocess.run(["sh", "-n", DEPLOY / "start.sh"], check=False).returncode == 0


def start(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """What the image's entrypoint does with a command, beside programs that say their own names and arguments."""
    place = f"cd {ROOT}"
    script = (DEPLOY / "start.sh").read_text().replace("cd /opt/lance", place)
    assert place in script
    programs = folder / "programs"
    programs.mkdir()
    for name in ("dagster", "dagster-daemon", "dagster-webserver", "lance"):
        (programs / name).write_text('#!/bin/sh\necho "$(basename "$0") $*"\n')
        (programs / name).chmod(0o755)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {"PATH": path, "PYTHONPATH": str(ROOT), "LANCE_HOME": str(folder / "lance")} | variables
    return subprocess.run(
        ["sh", "-c", script, "lance-start", *command], env=environment, capture_output=True, text=True, check=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", ["webserver", "daemon", "code", "lance"])
def test_the_container_starts_with_an_instance_of_its_own(tmp_path: Path, command: str) -> None:
    done = start(tmp_path, command, "run", DAGSTER_HOME=str(tmp_path / "dagster"))
    assert done.stdout.split()[0] in {command, f"dagster-{command}", "dagster"}
    assert (tmp_path / "dagster" / "dagster.yaml").read_text() == INSTANCE_FILE.read_text()


@pytest.mark.parametrize("command", ["dagster api grpc -m module", "dagster api execute_run {}", "printf %s as-given"])
def test_a_pod_needs_no_instance_of_its_own(tmp_path: Path, command: str) -> None:
    """The chart gives whole commands, and a DAGSTER_HOME that the image's user cannot make."""
    done = start(tmp_path, *command.split(), DAGSTER_HOME="/dev/null/dagster_home")
    assert done.stdout.strip() == command.removeprefix("printf %s ")
    assert not (tmp_path / "lance").exists()


def test_the_first_pod_makes_the_folder_of_experiments_that_the_values_name(tmp_path: Path) -> None:
    told = {each["name"]: each["value"] for each in LOCATION["env"]}
    own, *others = told["LANCE_EXPERIMENTS"].split(":")
    assert others == ["shipped"]
    home = tmp_path / "lance"
    folder = home / Path(own).relative_to(told["LANCE_HOME"])
    for program in ("first", "second"):
        named = {"LANCE_EXPERIMENTS": f"{folder}:shipped", "DAGSTER_HOME": "/dev/null/dagster_home"}
        (tmp_path / program).mkdir()
        start(tmp_path / program, "true", **named | {"LANCE_HOME": str(home)})
        assert folder.is_dir()


def test_every_experiment_of_a_default_compose_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the image, of which the page runs one, beside those that are mounted."""
    service = COMPOSE["services"]["code"]
    (mount,) = [each for each in service["volumes"] if "/experiments:ro" in each]
    given = re.fullmatch(r"\$\{LANCE_EXPERIMENTS:-(.+)\}:(/\w+):ro", mount)
    assert given is not None
    named = service["environment"]["LANCE_EXPERIMENTS"].split(":")
    assert given[2] in named
    folders = [str((DEPLOY / given[1]).resolve()) if name == given[2] else name for name in named]
    monkeypatch.setenv("LANCE_EXPERIMENTS", ":".join(folders))
    plans = load_plans()
    assert [plan for plan in plans.values() if isinstance(plan, str)] == []
    page = (ROOT / "docs" / "deploy" / "containers.md").read_text()
    (run,) = re.findall(r"exec code lance run (\w+)", page)
    assert {run, *(file.parent.name for file in Path(folders[0]).glob("*/defs.yaml"))} <= set(plans)


def test_what_the_image_keeps_lies_on_its_volume() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    (volume,) = [line.split()[1] for line in lines if line.startswith("VOLUME ")]
    kept = dict(re.findall(r"(\w+_HOME)=(\S+)", " ".join(line for line in lines if line.startswith("ENV "))))
    assert {"LANCE_HOME", "DAGSTER_HOME", "HF_HOME"} <= set(kept)
    assert [name for name, place in kept.items() if not Path(place).is_relative_to(volume)] == []


def test_the_page_of_helm_installs_the_chart_of_the_images_dagster() -> None:
    pinned = re.search(r"^dagster==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    asked = re.findall(r"dagster/dagster --version (\S+)", (ROOT / "docs" / "deploy" / "kubernetes.md").read_text())
    assert pinned is not None
    assert asked == [pinned[1]]


def to_snake_case(values: dict) -> dict:
    """The keys of one level as the chart's templates write them into dagster.yaml."""
    return {re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower(): value for name, value in values.items()}


def test_the_instance_of_the_chart_is_one_and_retries_what_was_lost_alone(tmp_path: Path) -> None:
    """As this package's own instance does; Dagster refuses limits in two places."""
    daemon, limits = VALUES["dagsterDaemon"], VALUES["concurrency"]
    assert limits["enabled"]
    runs = [to_snake_case(each) for each in limits["runs"]["tagConcurrencyLimits"]]
    config = {
        "run_coordinator": {
            "module": "dagster.core.run_coordinator",
            "class": daemon["runCoordinator"]["type"],
            "config": to_snake_case(daemon["runCoordinator"]["config"]["queuedRunCoordinator"]),
        },
        "concurrency": {"pools": to_snake_case(limits["pools"]), "runs": {"tag_concurrency_limits": runs}},
        "run_retries": to_snake_case(daemon["runRetries"]),
    }
    own = yaml.safe_load(INSTANCE_FILE.read_text())
    folders = []
    for name, content in (("chart", config), ("own", {key: own[key] for key in ("concurrency", "run_retries")})):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "dagster.yaml").write_text(yaml.safe_dump(content))
        folders.append(str(folder))
    with dg.DagsterInstance.from_config(folders[0]) as chart, dg.DagsterInstance.from_config(folders[1]) as package:
        assert chart.run_retries_max_retries == package.run_retries_max_retries == 1
        assert not chart.run_retries_retry_on_asset_or_op_failure
        queues = [each.get_concurrency_config().run_queue_config for each in (chart, package)]
        assert queues[0].tag_concurrency_limits == queues[1].tag_concurrency_limits != []
        pools = [each.get_concurrency_config().pool_config for each in (chart, package)]
        assert pools[0].pool_granularity == pools[1].pool_granularity
    said = re.search(r"limit of (\d+) \(`concurrency.pools.defaultLimit`\)", read_page("kubernetes"))
    assert said is not None
    assert int(said[1]) == pools[0].default_pool_limit


def read_page(name: str) -> str:
    """A page of docs/deploy, in one line."""
    return " ".join((ROOT / "docs" / "deploy" / f"{name}.md").read_text().split())


@pytest.fixture(params=["run", "step"])
def pod(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict:
    """The pod of a run, or of a step that asks for GPUs, as dagster-k8s makes it of the values."""
    pytest.importorskip("dagster_k8s", reason="dagster_k8s is not installed: pip install -e '.[k8s]'")
    import kubernetes
    from dagster_k8s import K8sRunLauncher
    from dagster_k8s.container_context import K8sContainerContext
    from dagster_k8s.job import UserDefinedDagsterK8sConfig, construct_dagster_k8s_job

    monkeypatch.setattr(kubernetes.config, "load_incluster_config", lambda: None)
    said = VALUES["runLauncher"]["config"]["k8sRunLauncher"]
    launcher = K8sRunLauncher(
        service_account_name="lance",
        instance_config_map="lance-instance",
        dagster_home="/opt/dagster/dagster_home",
        postgres_password_secret=VALUES["global"]["postgresqlSecretName"],
        run_k8s_config=to_snake_case(said["runK8sConfig"]),
    )
    # What the chart passes on of a deployment: dagsterUserDeployments.k8sContainerContext in its templates.
    passed = {name: LOCATION[name] for name in ("env", "resources", "volumes", "volumeMounts")}
    passed["envSecrets"] = [each["name"] for each in LOCATION["envSecrets"]]
    context = K8sContainerContext(run_k8s_config=UserDefinedDagsterK8sConfig.from_dict(launcher.run_k8s_config)).merge(
        K8sContainerContext.create_from_config({"k8s": to_snake_case(passed)})
    )
    if request.param == "step":
        tags = DEPLOYMENTS["k8s"].tag_step(StepRequest(num_cpus=4, num_gpus=8))["dagster-k8s/config"]
        context = context.merge(K8sContainerContext(run_k8s_config=UserDefinedDagsterK8sConfig.from_dict(tags)))
    job = construct_dagster_k8s_job(
        context.get_k8s_job_config("image", launcher), ["dagster", "api"], "job", context.run_k8s_config
    )
    spec = kubernetes.client.ApiClient().sanitize_for_serialization(job)["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    if request.param == "step":
        assert container["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    return spec


def check_pod(spec: dict) -> None:
    """The image's user can write the volume, and its container has the keys; both are those of the code location."""
    assert spec["securityContext"] == LOCATION["podSecurityContext"]
    users = re.findall(r"^USER (\d+)$", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert [str(spec["securityContext"]["fsGroup"])] == users
    (container,) = spec["containers"]
    secrets = [each["secretRef"]["name"] for each in container["envFrom"] if "secretRef" in each]
    assert secrets == [each["name"] for each in LOCATION["envSecrets"]]
    password = {each["name"]: each["valueFrom"]["secretKeyRef"] for each in container["env"] if "valueFrom" in each}
    secret = {"name": VALUES["global"]["postgresqlSecretName"], "key": "postgresql-password"}
    assert password == {"DAGSTER_PG_PASSWORD": secret}
    claims = [each["persistentVolumeClaim"] for each in spec["volumes"] if "persistentVolumeClaim" in each]
    assert [each["claimName"] for each in claims] == [each["metadata"]["name"] for each in VALUES["extraManifests"]]
    assert {each["mountPath"] for each in container["volumeMounts"]} == {
        each["mountPath"] for each in LOCATION["volumeMounts"]
    }


def test_the_pods_of_runs_and_steps_can_work(pod: dict) -> None:
    check_pod(pod)
    (container,) = pod["containers"]
    told = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    assert {each["name"]: each["value"] for each in LOCATION["env"]}.items() <= told.items()
    # The entrypoint of the image stays, which is given the command.
    assert "command" not in container


def test_the_values_of_helm_choose_kubernetes_and_one_volume() -> None:
    told = {each["name"]: each["value"] for each in LOCATION["env"]}
    assert told["LANCE_DEPLOYMENT"] in DEPLOYMENTS
    (mount,) = [each for each in LOCATION["volumeMounts"] if each["mountPath"] == told["LANCE_HOME"]]
    volumes = {each["name"]: each for each in LOCATION["volumes"]}
    claimed = volumes[mount["name"]]["persistentVolumeClaim"]["claimName"]
    assert claimed in [each["metadata"]["name"] for each in VALUES["extraManifests"]]
    assert LOCATION["includeConfigInLaunchedRuns"]["enabled"]
    module = LOCATION["dagsterApiGrpcArgs"][-1]
    assert (ROOT / Path(*module.split("."))).with_suffix(".py").exists()
    images = [VALUES["dagsterWebserver"]["image"], VALUES["dagsterDaemon"]["image"], LOCATION["image"]]
    assert all(image == images[0] for image in images)


def test_the_pods_of_the_ray_cluster_have_fields_that_kubernetes_knows() -> None:
    """Whatever else an operator does with them; a word that it does not know would be left out unseen."""
    pytest.importorskip("dagster_k8s", reason="dagster_k8s is not installed: pip install -e '.[k8s]'")
    from dagster_k8s.models import k8s_snake_case_dict
    from kubernetes.client import V1PodTemplateSpec

    groups = [CLUSTER["spec"]["headGroupSpec"], *CLUSTER["spec"]["workerGroupSpecs"]]
    for group in groups:
        k8s_snake_case_dict(V1PodTemplateSpec, group["template"])
        misspelt = {"spec": group["template"]["spec"] | {"securityContext": {"fsgroup": 1000}}}
        with pytest.raises(Exception, match=r"Unexpected keys in model class V1PodSecurityContext: \{'fsgroup'\}"):
            k8s_snake_case_dict(V1PodTemplateSpec, misspelt)


def test_the_ray_cluster_has_the_pinned_ray_and_the_same_volume() -> None:
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert pinned is not None
    assert CLUSTER["spec"]["rayVersion"] == pinned[1]
    pods = [CLUSTER["spec"]["headGroupSpec"], *CLUSTER["spec"]["workerGroupSpecs"]]
    for pod in pods:
        spec = pod["template"]["spec"]
        (container,) = spec["containers"]
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in spec["volumes"]}
        assert container["image"].partition(":")[0] == VALUES["dagsterWebserver"]["image"]["repository"]
        check_pod(spec)
