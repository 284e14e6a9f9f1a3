"""Command line of the operator, and how its parts are put together."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence

import aiohttp

from plumbline_api import GROUP, VERSION
from plumbline_operator.api import Api, ApiError
from plumbline_operator.audit import Audit
from plumbline_operator.child_index import ChildIndex
from plumbline_operator.departed import DepartedPods
from plumbline_operator.health import HealthServer
from plumbline_operator.leadership import Leadership
from plumbline_operator.listed import ListedObjects
from plumbline_operator.login import NoLogin, load_configuration
from plumbline_operator.logs import configure_logs
from plumbline_operator.metrics import MOST_JOBS, OperatorMetrics, WatchActivity, build_version
from plumbline_operator.queue import WorkQueue
from plumbline_operator.reconcile import Reconciler
from plumbline_operator.registry import JobRegistry
from plumbline_operator.resources import JOBS, RUNTIMES, JobKey
from plumbline_operator.seen import SeenVersions
from plumbline_operator.status_pull import PULL_SECONDS, StatusPuller
from plumbline_operator.watching import Delivery, Watcher, audited, watch

logger = logging.getLogger("plumbline_operator")

UNREACHABLE = (ApiError, aiohttp.ClientError, TimeoutError)
"""What a request to the API server may end with that is no fault of the operator."""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="plumbline-operator", description="Runs PreferenceJobs and RLVRJobs on a Kubernetes cluster."
    )
    parser.add_argument(
        "--namespace",
        action="append",
        default=[],
        metavar="NAME",
        help="serve only this namespace; may be given several times (default: all)",
    )
    parser.add_argument(
        "--without-cluster-scope",
        action="store_true",
        help="read nothing that lies in no namespace, neither ClusterTrainerRuntimes nor nodes: for an operator without"
        " a ClusterRole; needs --namespace",
    )
    parser.add_argument("--workers", type=int, default=4, help="jobs reconciled at the same time (default: 4)")
    parser.add_argument("--metrics-port", type=int, default=8080, help="port of /metrics (default: 8080)")
    parser.add_argument(
        "--metrics-jobs",
        type=int,
        default=MOST_JOBS,
        metavar="N",
        help=f"most jobs with series of their own on /metrics (default: {MOST_JOBS})",
    )
    parser.add_argument("--health-port", type=int, default=8081, help="port of /healthz and /readyz (default: 8081)")
    parser.add_argument(
        "--status-via",
        choices=["pod", "proxy"],
        default="pod",
        help="how trainers are asked for their status: pod, by the pod's address; proxy, through the API server, when"
        " the operator runs outside of the cluster (default: pod)",
    )
    parser.add_argument(
        "--status-interval", type=float, default=PULL_SECONDS, help="seconds between questions to one trainer"
    )
    parser.add_argument(
        "--progress-interval",
        type=float,
        default=15.0,
        help="least seconds between two status writes of a job that only tell of progress (default: 15)",
    )
    parser.add_argument(
        "--kubeconfig",
        default=os.environ.get("KUBECONFIG"),
        help="kubeconfig file (default: KUBECONFIG, else the pod's service account)",
    )
    parser.add_argument(
        "--leader-election",
        default="",
        metavar="NAMESPACE/LEASE",
        help="work only while this operator holds the lease, so that several may run (default: work at once)",
    )
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    parsed = parser.parse_args(arguments)
    if parsed.workers < 1:
        parser.error("--workers must be at least 1")
    if parsed.without_cluster_scope and not parsed.namespace:
        parser.error("--without-cluster-scope needs --namespace")
    if parsed.leader_election and not all(parsed.leader_election.partition("/")):
        parser.error("--leader-election must be NAMESPACE/LEASE")
    return parsed


async def run(options: argparse.Namespace) -> None:
    """Runs until a signal; raises when a part of the operator dies, CancelledError when stopped while it starts."""
    starting = asyncio.current_task()
    assert starting is not None
    configuration = await load_configuration(options.kubeconfig)
    jobs, activity, queue = JobRegistry(), WatchActivity(), WorkQueue[JobKey](expected=UNREACHABLE, is_outage=is_outage)
    departed, children, seen, listed = DepartedPods(), ChildIndex(), SeenVersions(), ListedObjects()
    metrics = OperatorMetrics(jobs, queue, activity, options.metrics_jobs)
    api = Api(configuration, metrics.requested)
    puller = StatusPuller(
        api,
        queue.add_routine,
        has_time=lambda: queue.has_free_worker,
        through_api_server=options.status_via == "proxy",
        progress_interval=options.progress_interval,
        pull_seconds=options.status_interval,
    )
    reconciler = Reconciler(
        api, queue, jobs, puller, departed, children, seen, listed, metrics, progress_interval=options.progress_interval
    )
    watcher = Watcher(queue, jobs, departed, children, seen, listed)
    resources = audited(cluster_scope=not options.without_cluster_scope)
    audit = Audit(api, resources, options.namespace, watcher.concern_later, watcher.notice_listed)
    metrics.show_silent([*(resource.plural for resource in audit.resources), "audit"], audit.silent)
    leadership = None
    if options.leader_election:
        leadership = Leadership(api, *options.leader_election.split("/", 1))
        metrics.show_leadership(lambda: leadership.leads)
    watching = asyncio.Event()
    delivery = Delivery(watcher, audit, activity, options.namespace)
    # Until kopf takes the signal over; the first process of a container has no default action for it.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, starting.cancel)
    health = HealthServer(options.health_port, audit.silent, watching.is_set)
    try:
        metrics.serve(options.metrics_port)
        await health.start()
        await wait_for_kinds(api)
        logger.info("Operator starts", extra={"version": build_version(), "workers": options.workers})
        async with asyncio.TaskGroup() as group:

            async def work() -> None:
                await delivery.wait_until_listed()  # so that a job is looked at with all its children
                watcher.work_begins()
                await queue.run(options.workers, reconciler)

            background = [
                group.create_task(leadership.while_leading(work) if leadership else work(), name="queue"),
                group.create_task(puller.run(), name="status-pull"),
                group.create_task(audit.run(), name="audit"),
            ]
            if leadership:
                background.append(group.create_task(leadership.run(), name="leadership"))
            await watch(delivery, configuration, options.namespace, watching)
            for task in background:
                task.cancel()
    finally:
        await health.stop()
        if leadership:
            await leadership.end()
        await api.close()
    logger.info("Operator stops")


def is_outage(error: Exception) -> bool:
    """Whether a failure is the API server's trouble, rather than what it thinks of an object."""
    return isinstance(error, UNREACHABLE) and not (isinstance(error, ApiError) and error.refuses_the_object)


async def wait_for_kinds(api: Api) -> None:
    """Waits until the API server serves all our kinds: kopf looks once and would not see what is installed later."""
    wanted = {resource.plural for resource in (*JOBS.values(), *RUNTIMES.values())}
    while True:
        try:
            missing = wanted - await api.served(GROUP, VERSION)
        except UNREACHABLE as error:
            logger.warning("The API server does not answer", extra={"error": str(error)})
        else:
            if not missing:
                return
            logger.warning("Custom resource definitions are missing", extra={"missing": ", ".join(sorted(missing))})
        await asyncio.sleep(2.0)


def _collect_garbage_less_often() -> None:
    """What was imported stays for good, and the pages of a list are no garbage while they are parsed: with the defaults
    the collector looks through all of it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def main() -> None:
    options = parse_arguments()
    configure_logs(options.log_level)
    _collect_garbage_less_often()
    try:
        asyncio.run(run(options))
    except asyncio.CancelledError:
        logger.info("Operator stops before it has started")
    except NoLogin as error:
        sys.exit(f"plumbline-operator: cannot log in to a cluster: {error}")


if __name__ == "__main__":
    main()
