"""Condition types, phases and the one closed list of reasons.

A reason appears in conditions, in `status.lastFailure`, in the trainer's termination message and in events; the same
word always means the same thing. `REASONS` is their documentation and the only place where a reason is introduced.
"""

from __future__ import annotations

from enum import StrEnum


class ConditionType(StrEnum):
    """`status.conditions[].type`."""

    ACCEPTED = "Accepted"
    QUOTA_RESERVED = "QuotaReserved"
    PODS_READY = "PodsReady"
    RUNNING = "Running"
    PROGRESSING = "Progressing"
    CHECKPOINTED = "Checkpointed"
    HEALTHY = "Healthy"
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    FAILED = "Failed"


class Phase(StrEnum):
    """`status.phase`: one word for people."""

    PENDING = "Pending"
    QUEUED = "Queued"
    STARTING = "Starting"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    FAILED = "Failed"


class Reason(StrEnum):
    """Why a condition is as it is."""

    # the job as a whole
    ACCEPTED = "Accepted"
    SPEC_INVALID = "SpecInvalid"
    SPEC_CHANGED = "SpecChanged"
    RUNTIME_NOT_FOUND = "RuntimeNotFound"
    PODS_CREATED = "PodsCreated"
    PODS_RUNNING = "PodsRunning"
    TRAINING = "Training"
    BACKING_OFF = "BackingOff"
    WAITING_FOR_QUOTA = "WaitingForQuota"
    QUOTA_RESERVED = "QuotaReserved"
    SUSPENDED_BY_USER = "SuspendedByUser"
    SUSPENDED_BY_RULE = "SuspendedByRule"
    RESUMED = "Resumed"
    CHECKPOINT_SAVED = "CheckpointSaved"
    NO_CHECKPOINT = "NoCheckpoint"
    COMPLETED = "Completed"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    CHECKPOINT_DAMAGED = "CheckpointDamaged"
    GRACE_PERIOD_TOO_SHORT = "GracePeriodTooShort"
    NODE_EXCLUDED = "NodeExcluded"
    TRAINER_WARNING = "TrainerWarning"
    # why pods do not start
    UNSCHEDULABLE = "Unschedulable"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    VOLUME_FAILED = "VolumeFailed"
    QUOTA_EXCEEDED = "QuotaExceeded"
    POD_REFUSED = "PodRefused"
    CONTAINER_CONFIG_ERROR = "ContainerConfigError"
    WAITING_FOR_PODS = "WaitingForPods"
    # how healthy the training is
    HEALTHY = "Healthy"
    NOT_MEASURED = "NotMeasured"
    NOT_FINITE = "NotFinite"
    KL_ABOVE_BOUND = "KlAboveBound"
    REWARD_COLLAPSE = "RewardCollapse"
    ENTROPY_COLLAPSE = "EntropyCollapse"
    ZERO_ADVANTAGE = "ZeroAdvantage"
    TRUNCATION = "Truncation"
    VERIFIER_ERRORS = "VerifierErrors"
    GRADIENT_NORM_ABOVE_BOUND = "GradientNormAboveBound"
    GRADIENT_GROWTH = "GradientGrowth"
    MARGIN_COLLAPSE = "MarginCollapse"
    OVER_OPTIMISATION = "OverOptimisation"
    LENGTH_GROWTH = "LengthGrowth"
    ROLLED_BACK = "RolledBack"
    # why an attempt ended
    CONFIG_ERROR = "ConfigError"
    DATA_ERROR = "DataError"
    MODEL_ERROR = "ModelError"
    TRAINER_BUG = "TrainerBug"
    GPU_OUT_OF_MEMORY = "GpuOutOfMemory"
    GPU_ERROR = "GpuError"
    HOST_OUT_OF_MEMORY = "HostOutOfMemory"
    DIVERGED = "Diverged"
    GUARDRAIL_FAILED = "GuardrailFailed"
    SUSPENDED_BY_GUARDRAIL = "SuspendedByGuardrail"
    REWARD_FUNCTION_ERROR = "RewardFunctionError"
    REWARD_FUNCTION_TIMEOUT = "RewardFunctionTimeout"
    CHECKPOINT_UNREADABLE = "CheckpointUnreadable"
    DISK_FULL = "DiskFull"
    COLLECTIVE_TIMEOUT = "CollectiveTimeout"
    LOST_PEER = "LostPeer"
    INFRASTRUCTURE_ERROR = "InfrastructureError"
    STALLED = "Stalled"
    FIRST_STEP_TIMEOUT = "FirstStepTimeout"
    PENDING_TIMEOUT = "PendingTimeout"
    STOPPED_SAVED = "StoppedSaved"
    STOPPED_NOT_SAVED = "StoppedNotSaved"
    POD_DELETED = "PodDeleted"
    POD_EVICTED = "PodEvicted"
    PREEMPTED = "Preempted"
    NODE_LOST = "NodeLost"
    KILLED = "Killed"
    UNKNOWN_EXIT = "UnknownExit"


ATTEMPT_ENDS: tuple[Reason, ...] = (
    Reason.CONTAINER_CONFIG_ERROR,
    *list(Reason)[list(Reason).index(Reason.CONFIG_ERROR) :],
)
"""Why an attempt may have ended: the last section of the list, and what a pod may also wait for."""

REASONS: dict[Reason, str] = {
    Reason.ACCEPTED: "The spec is valid, the runtime exists, and the snapshot of both is stored.",
    Reason.SPEC_INVALID: "The spec breaks a rule; the message names the field.",
    Reason.SPEC_CHANGED: "A fixed part of the spec was edited; the run goes on with the spec it started with.",
    Reason.RUNTIME_NOT_FOUND: "spec.runtimeRef names a runtime that does not exist.",
    Reason.PODS_CREATED: "The pods of the attempt exist and have not all started.",
    Reason.PODS_RUNNING: "All pods of the attempt run.",
    Reason.TRAINING: "The trainer reports steps.",
    Reason.BACKING_OFF: "The last attempt failed; the next starts after the backoff.",
    Reason.WAITING_FOR_QUOTA: "The pods wait until Kueue admits them.",
    Reason.QUOTA_RESERVED: "Kueue has admitted the pods.",
    Reason.SUSPENDED_BY_USER: "spec.runPolicy.suspend is true.",
    Reason.SUSPENDED_BY_RULE: "A rule of runPolicy.restartRules suspended the job; spec.runPolicy.suspend false resumes it.",
    Reason.RESUMED: "spec.runPolicy.suspend went back to false.",
    Reason.CHECKPOINT_SAVED: "A verified checkpoint exists.",
    Reason.NO_CHECKPOINT: "No verified checkpoint exists yet.",
    Reason.COMPLETED: "The trainer finished and wrote the model.",
    Reason.DEADLINE_EXCEEDED: "The run took longer than runPolicy.activeDeadlineSeconds.",
    Reason.CHECKPOINT_DAMAGED: "A checkpoint does not match its manifest; the run goes on from the one before. Only an event.",
    Reason.GRACE_PERIOD_TOO_SHORT: "Saving a checkpoint takes longer than runPolicy.terminationGracePeriodSeconds allows. Only an event.",
    Reason.NODE_EXCLUDED: "The next attempts avoid a node, which is in status.excludedNodes. Only an event.",
    Reason.TRAINER_WARNING: "The trainer goes on and the user should know why that deserves a look; only an event.",
    Reason.UNSCHEDULABLE: "No node fits; the message says which resource is short.",
    Reason.IMAGE_PULL_FAILED: "The image cannot be pulled.",
    Reason.VOLUME_FAILED: "A volume or claim is missing or cannot be mounted.",
    Reason.QUOTA_EXCEEDED: "A ResourceQuota of the namespace refuses the pods.",
    Reason.POD_REFUSED: "The API server or an admission policy refuses the pods.",
    Reason.CONTAINER_CONFIG_ERROR: "A ConfigMap, Secret or key that the container needs is missing, or its command cannot start.",
    Reason.WAITING_FOR_PODS: "The pods are starting and nothing is known to be wrong.",
    Reason.HEALTHY: "No signal of guardrails is beyond its bound.",
    Reason.NOT_MEASURED: "No signal of guardrails has been measured yet: the windows are not full.",
    Reason.NOT_FINITE: "A loss or gradient was not finite; the step was not applied.",
    Reason.KL_ABOVE_BOUND: "The policy is further from the reference than the guardrail allows.",
    Reason.REWARD_COLLAPSE: "The mean reward has fallen far below its best.",
    Reason.ENTROPY_COLLAPSE: "The policy has lost its entropy before it learnt to answer.",
    Reason.ZERO_ADVANTAGE: "Hardly any group of completions has an advantage: nothing is learnt from the others.",
    Reason.TRUNCATION: "Most completions are cut off by training.maxCompletionTokens.",
    Reason.VERIFIER_ERRORS: "Many calls of a reward component fail.",
    Reason.GRADIENT_NORM_ABOVE_BOUND: "The norm of the gradient is above the guardrail's bound.",
    Reason.GRADIENT_GROWTH: "The norm of the gradient has grown many times over since the start.",
    Reason.MARGIN_COLLAPSE: "The margin between chosen and rejected completions has fallen far below its best.",
    Reason.OVER_OPTIMISATION: "Held-out scores fall while the training score does not.",
    Reason.LENGTH_GROWTH: "Completions grow longer without more reward.",
    Reason.ROLLED_BACK: "A guardrail had the run go on from its last healthy checkpoint; only an event.",
    Reason.CONFIG_ERROR: "Exit code 64: the trainer refuses its configuration.",
    Reason.DATA_ERROR: "Exit code 65: data is missing, empty or malformed; the message names file and line.",
    Reason.MODEL_ERROR: "Exit code 66: the model or tokenizer cannot be loaded.",
    Reason.TRAINER_BUG: "Exit code 70: the trainer raised an error it does not know.",
    Reason.GPU_OUT_OF_MEMORY: "Exit code 71: GPU memory is exhausted.",
    Reason.GPU_ERROR: "The GPU or its driver failed, such as an uncorrectable memory error; the log says so.",
    Reason.HOST_OUT_OF_MEMORY: "The container reached its memory limit: the kernel killed it, or an allocation was refused.",
    Reason.DIVERGED: "Exit code 72: loss or gradient is not finite.",
    Reason.GUARDRAIL_FAILED: "Exit code 72: a guardrail with action Fail was broken, or its rollbacks are used up.",
    Reason.SUSPENDED_BY_GUARDRAIL: "Exit code 85: a guardrail with action Suspend was broken; spec.runPolicy.suspend false resumes the job.",
    Reason.REWARD_FUNCTION_ERROR: "Exit code 73: a reward component failed more often than it may.",
    Reason.REWARD_FUNCTION_TIMEOUT: "Exit code 73: a reward component was too slow for its time limit more often than it may.",
    Reason.CHECKPOINT_UNREADABLE: "Exit code 74: checkpoints exist and none of them verifies.",
    Reason.DISK_FULL: "Exit code 75 with a full volume: a checkpoint or the output could not be written.",
    Reason.COLLECTIVE_TIMEOUT: "Exit code 75: the ranks waited for one of them longer than they may; its own pod shows no cause.",
    Reason.LOST_PEER: "Exit code 75: a rank lost its connection to another one whose pod shows no cause.",
    Reason.INFRASTRUCTURE_ERROR: "Exit code 75: another failure outside the job, such as an unreachable store.",
    Reason.STALLED: "The run did no step for its deadline; the message says where the trainer hangs.",
    Reason.FIRST_STEP_TIMEOUT: "The pods ran longer than runPolicy.firstStepDeadlineSeconds without a first step.",
    Reason.PENDING_TIMEOUT: "Pods held nodes for runPolicy.pendingTimeoutSeconds and not all of them ran.",
    Reason.STOPPED_SAVED: "Exit code 85: stopped on request after saving a checkpoint.",
    Reason.STOPPED_NOT_SAVED: "Exit code 86: stopped on request, the checkpoint could not be saved.",
    Reason.POD_DELETED: "A pod of the attempt was deleted from outside.",
    Reason.POD_EVICTED: "A pod of the attempt was evicted: its node ran short, was drained or got a taint.",
    Reason.PREEMPTED: "A pod of the attempt gave way to one of higher priority.",
    Reason.NODE_LOST: "The node of a pod is gone or not ready.",
    Reason.KILLED: "A container was killed by a signal from outside.",
    Reason.UNKNOWN_EXIT: "A container ended with an exit code outside the contract.",
}
