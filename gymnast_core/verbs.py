"""The table of `gymnast`'s verbs. A thing comes before what is done with it: `judge train`, `world-model evaluate`.

A verb's options live in a module without torch, so that `gymnast VERB --help` answers at once; the module that does
the work is imported when the options are known.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """One verb of the command line."""

    options: str
    """Its config class, as module:Class."""
    run: str
    """The function that takes the config and returns an exit code or nothing, as module:function."""
    summary: str
    """What it does, in one line of the help."""
    recipe: str = ""
    """YAML file that gives the defaults where no --from is given, relative to gymnast_core; for a verb whose own
    defaults, a paper's, are not for a first try."""
    page: bool = False
    """Write the run's report.html afterwards. Verbs that know no reports need it; the others write their own."""
    result: bool = False
    """It writes result.json, which `--json` prints."""


def _verb(
    room: str, options: str, run: str, summary: str, recipe: str = "", page: bool = False, result: bool = False
) -> Verb:
    """A verb whose two modules lie in one room. options: module:Class; run: module:function."""
    return Verb(f"gymnast_core.{room}{options}", f"gymnast_core.{room}{run}", summary, recipe, page, result)


GROUPS: dict[str, dict[str, Verb]] = {
    "A station": {
        "demo": _verb("", "demo:DemoConfig", "demo:demo", "simulate a station: practise, act, log, report"),
        "up": _verb("", "up:UpConfig", "up:up", "start every node of a station, as bridge.launch.py does"),
        "console": _verb(
            "serve.",
            "console.options:ConsoleOptions",
            "console.options:console",
            "serve the page on which people watch and operate a running station",
        ),
        "status": _verb("", "status:StatusConfig", "status:status", "say what the nodes and the arm are doing now"),
        "stop": _verb("", "stop:StopConfig", "stop:stop", "emergency stop: hold the arm until it is re-armed"),
        "rearm": _verb("", "stop:RearmConfig", "stop:rearm", "release the emergency stop, after a look at the arm"),
        "trials": _verb(
            "evaluation.",
            "trials_config:TrialsOptions",
            "trials:trials",
            "try policies on a station from the same resets, and compare them",
            result=True,
        ),
        "trials compare": _verb(
            "evaluation.",
            "trials_config:CompareRunsOptions",
            "trials_compare:compare_runs",
            "compare trials of different days, and say what differed",
            result=True,
        ),
        "camera check": _verb(
            "evaluation.",
            "camera_check_config:CameraCheckConfig",
            "camera_check:camera_check",
            "hold the live picture against the station's reference photograph",
        ),
        "arm check": _verb(
            "",
            "arm_check:ArmCheckConfig",
            "arm_check:arm_check",
            "move the arm through the contract that every driver must keep",
        ),
        "soak": _verb("", "soak:SoakConfig", "soak:soak", "let the simulated station work for hours, with faults"),
        "doctor": _verb("", "doctor:DoctorConfig", "doctor:doctor", "list what this machine lacks and how to get it"),
        "completion": _verb(
            "",
            "completion:CompletionConfig",
            "completion:completion",
            "print a script that completes gymnast in a shell",
        ),
    },
    "Jobs of a station": {
        "queue submit": _verb("serve.", "queue_config:SubmitConfig", "queue_verbs:submit", "ask for a policy's trials"),
        "queue list": _verb(
            "serve.",
            "queue_config:ListJobsConfig",
            "queue_verbs:list_jobs",
            "list the jobs and their states",
        ),
        "queue show": _verb(
            "serve.", "queue_config:ShowJobConfig", "queue_verbs:show_job", "show a job, its trials and its result"
        ),
        "queue cancel": _verb("serve.", "queue_config:CancelJobConfig", "queue_verbs:cancel_job", "end a job"),
        "queue run": _verb(
            "serve.", "queue_config:RunQueueConfig", "queue_run:run_queue", "run the jobs on the station, one by one"
        ),
        "queue pause": _verb(
            "serve.", "queue_config:PauseQueueConfig", "queue_verbs:pause_queue", "let no job go on, for maintenance"
        ),
        "queue resume": _verb("serve.", "queue_config:ResumeQueueConfig", "queue_verbs:resume_queue", "let jobs go on"),
        "queue serve": _verb(
            "serve.", "queue_config:ServeQueueConfig", "queue_serve:serve_queue", "let users submit jobs over HTTP"
        ),
        "queue user": _verb(
            "serve.", "queue_config:QueueUserConfig", "queue_verbs:set_user", "give a user a token, and limits"
        ),
    },
    "Practice and policies": {
        "adapt": _verb(
            "rl.",
            "adapt_config:AdaptConfig",
            "adapt:adapt",
            "practise a task in imagination, from a frame of it",
            result=True,
        ),
        "canary": _verb(
            "evaluation.",
            "canary_config:CanaryOptions",
            "canary_trials:canary",
            "try an adapter against its base, pair by pair: the robot has the last word",
            result=True,
        ),
        "practise": _verb(
            "workflows.",
            "practise_config:PractiseOptions",
            "practise:practise",
            "practise, try, learn from what failed and practise again, in rounds",
            result=True,
        ),
        "learn": _verb(
            "workflows.",
            "learn_config:LearnConfig",
            "learn:learn",
            "train world model and judges further on a station's trials, and measure the gate anew",
            result=True,
        ),
        "dyna": _verb(
            "workflows.",
            "dyna_config:DynaOptions",
            "dyna:dyna",
            "learn from all logs of a station, keep what is better, practise in it, in rounds",
            result=True,
        ),
        "dyna status": _verb(
            "workflows.",
            "dyna_config:DynaStatusOptions",
            "dyna_status:dyna_status",
            "print the tree of world models, judges and adapters",
        ),
        "train": _verb(
            "rl.", "train_config:TrainConfig", "train:train", "train a policy by GRPO, from many frames", result=True
        ),
        "sft": _verb(
            "policy.", "sft_config:SFTConfig", "sft:sft", "train a policy on demonstrations", page=True, result=True
        ),
        "policy evaluate": _verb(
            "evaluation.",
            "policy_config:EvaluatePolicyConfig",
            "policy:evaluate_policy",
            "measure a policy's success on the simulated station",
            result=True,
        ),
        "policy imagine": _verb(
            "evaluation.",
            "imagined_config:ImaginePolicyConfig",
            "imagined:imagine_policy",
            "measure a policy's success in imagination, from frames alone",
            result=True,
        ),
        "policy correlate": _verb(
            "evaluation.",
            "correlate_config:CorrelateConfig",
            "correlate:correlate_policies",
            "compare success in imagination with real success, over several policies",
            result=True,
        ),
        "adapter list": _verb("policy.", "manage:ListAdaptersConfig", "manage:list_adapters", "list adapted policies"),
        "adapter remove": _verb(
            "policy.", "manage:RemoveAdapterConfig", "manage:remove_adapter", "delete an adapted policy"
        ),
        "adapter evaluate": _verb(
            "evaluation.",
            "adapter_config:CompareConfig",
            "adapter:compare_adapter",
            "compare an adapted policy with its base on the simulated station",
            result=True,
        ),
        "serve": _verb(
            "serve.", "serve_config:ServeConfig", "serve:serve", "answer other programs' requests for actions"
        ),
        "benchmark transfer": _verb(
            "workflows.",
            "transfer_config:TransferConfig",
            "transfer:transfer",
            "practise many times by each of several recipes, and measure what it was worth",
            result=True,
        ),
    },
    "Judges and world models": {
        "judge train": _verb(
            "reward.",
            "train_config:JudgeTrainConfig",
            "train:train_judge",
            "train a judge on labelled episodes",
            page=True,
            result=True,
        ),
        "judge evaluate": _verb(
            "evaluation.",
            "judge_config:EvaluateJudgeConfig",
            "judge:evaluate_judge",
            "measure a judge's agreement with labelled episodes",
            result=True,
        ),
        "world-model train": _verb(
            "world_model.",
            "train_config:TrainConfig",
            "train:train",
            "train a world model on episodes",
            recipe="world_model/recipes/mini.yaml",
            page=True,
            result=True,
        ),
        "world-model finetune": _verb(
            "world_model.",
            "finetune_config:FinetuneConfig",
            "finetune:finetune",
            "train a world model further, on a station's own episodes",
            page=True,
            result=True,
        ),
        "world-model train-autoencoder": _verb(
            "world_model.",
            "train_autoencoder_config:AutoencoderTrainConfig",
            "train_autoencoder:train_autoencoder",
            "train a small autoencoder on episodes",
            page=True,
            result=True,
        ),
        "world-model evaluate": _verb(
            "evaluation.",
            "imagination_config:EvaluateConfig",
            "imagination:evaluate",
            "measure imagined pictures and outcomes against real ones",
            result=True,
        ),
        "world-model rollout": _verb(
            "world_model.",
            "play_config:RolloutConfig",
            "play:rollout",
            "imagine chosen actions from a frame, into a video",
        ),
        "world-model reconstruct": _verb(
            "world_model.",
            "reconstruct_config:ReconstructConfig",
            "reconstruct:reconstruct",
            "copy episodes as the world model shows or imagines them",
        ),
    },
    "The Hugging Face Hub": {
        "hub push": _verb(
            "hub.", "push_config:PushConfig", "push:push", "send a data set, a policy, a world model or an adapter"
        ),
        "hub pull": _verb("hub.", "pull_config:PullConfig", "pull:pull", "fetch a model or a data set"),
    },
    "Data and runs": {
        "data collect": _verb(
            "evaluation.", "collect_config:CollectConfig", "collect:collect", "record episodes on the simulated station"
        ),
        "data label": _verb(
            "serve.", "label_config:LabelConfig", "label:label", "say which logged episodes succeeded, and when"
        ),
        "data check": _verb(
            "evaluation.",
            "check_config:CheckConfig",
            "check:check",
            "find broken episodes, and mend them where possible",
        ),
        "data list": _verb(
            "evaluation.",
            "logbook_config:ListEpisodesConfig",
            "logbook_verbs:list_episodes",
            "list logged episodes: day, task, policy, outcome",
        ),
        "data show": _verb(
            "evaluation.",
            "logbook_config:ShowEpisodeConfig",
            "logbook_verbs:show_episode",
            "show what is known of one episode, with a film strip",
        ),
        "data view": _verb(
            "evaluation.",
            "view_config:ViewConfig",
            "view:view",
            "look at episodes and imagined rollouts on a timeline of Rerun",
        ),
        "data formats": _verb(
            "data.", "list_formats:ListFormatsConfig", "list_formats:list_formats", "list the formats that are read"
        ),
        "data topics": _verb(
            "data.", "bag_topics:TopicsConfig", "bag_topics:topics", "say which topics of others' bags make an episode"
        ),
        "data convert": _verb(
            "data.",
            "convert_config:ConvertConfig",
            "convert:convert",
            "write episodes anew in another format, such as LeRobot's",
        ),
        "data recover": _verb(
            "data.", "recover:RecoverConfig", "recover:recover", "repair recordings that were cut short"
        ),
        "augment distractors": _verb(
            "workflows.",
            "augment_config:DistractorsConfig",
            "augment_distractors:augment_distractors",
            "add things that do not matter to start frames",
        ),
        "augment instructions": _verb(
            "workflows.",
            "augment_config:InstructionsConfig",
            "augment_instructions:augment_instructions",
            "give start frames further instructions",
        ),
        "augment tasks": _verb(
            "workflows.",
            "augment_config:TasksConfig",
            "augment_tasks:augment_tasks",
            "sort start frames into a mixture's folders, some held out",
        ),
        "runs": _verb(
            "evaluation.",
            "runs_config:ListRunsConfig",
            "runs:list_runs",
            "list every run and episode below a folder, with outcome, lineage and figures",
        ),
        "runs compare": _verb(
            "evaluation.",
            "runs_config:CompareAnyRunsConfig",
            "runs:compare_runs",
            "show runs or episodes side by side: figures, curves, films in step, configs",
        ),
        "report": _verb(
            "reporting.", "report:ReportConfig", "report:report", "write report.html of a run folder again"
        ),
    },
}
VERBS: dict[str, Verb] = {name: verb for group in GROUPS.values() for name, verb in group.items()}
OLD_NAMES = {
    "adapters list": "adapter list",
    "adapters remove": "adapter remove",
    "evaluate adapter": "adapter evaluate",
    "evaluate imagined": "policy imagine",
    "evaluate judge": "judge evaluate",
    "evaluate policy": "policy evaluate",
}
"""Names that verbs had before, and one that was announced in their manner: still understood."""


def find_verb(words: list[str]) -> str:
    """The verb, in the table or an old name, that a command line begins with; "" where there is none."""
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in VERBS or name in OLD_NAMES:
            return name
    return ""


def verbs_of(thing: str) -> dict[str, Verb]:
    """The verbs of one thing, such as "judge": what can be done with it, by their full names."""
    return {name: verb for name, verb in VERBS.items() if name.startswith(f"{thing} ")}


def explain_unknown(words: list[str]) -> str:
    """One line about a command line that begins with no verb: what is missing, or which verbs come closest."""
    first = words[0]
    own = [name.split(" ", 1)[1] for name in verbs_of(first)]
    if own and (len(words) == 1 or words[1].startswith("-")):
        return f"`gymnast {first}` needs one more word: {', '.join(own)}"
    given = " ".join(words[:2]) if len(words) > 1 and not words[1].startswith("-") else first
    if own:
        near = [f"{first} {name}" for name in difflib.get_close_matches(words[1], own, 2, 0.5) or own]
    else:
        turned = " ".join(reversed(words[:2]))  # `train judge`
        near = [turned] if turned in VERBS else difflib.get_close_matches(given, VERBS, 2, 0.6)
        near = near or difflib.get_close_matches(first, VERBS, 2, 0.6)
        things = difflib.get_close_matches(first, {name.split()[0] for name in VERBS if " " in name}, 1, 0.6)
        near = near or [name for thing in things for name in verbs_of(thing)]
    guess = f"; did you mean {' or '.join(f'`gymnast {name}`' for name in near)}?" if near else ""
    return f"unknown verb '{given}'{guess or ';'} `gymnast --help` lists the verbs"
