"""Full titles of the papers whose methods docs/methods.md must list, and where a user finds each in the API.

`rows` are the first cells of the rows that name the paper: keys of methods, or names of recipes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """One paper and the rows that must name it by its full title."""

    title: str
    rows: tuple[str, ...]


PAPERS = (
    Paper("Self-Improving Robust Preference Optimization", ("srpo",)),
    Paper(
        "Self-supervised Preference Optimization: Enhance Your Language Model with Preference Degree Awareness",
        ("auxiliary.preferenceDegree",),
    ),
    Paper(
        "LLaDA 1.5: Variance-Reduced Preference Optimization for Large Language Diffusion Models",
        ("vrpo",),
    ),
    Paper(
        "Leveraging Reinforcement Learning and Large Language Models for Code Optimization",
        ("rrhf", "code that runs faster"),
    ),
    Paper(
        "ScoreFlow: Mastering LLM Agent Workflows via Score-based Preference Optimization",
        ("scoreDpo", "pairing.gapSampled", "preferences by score"),
    ),
    Paper(
        "BFS-Prover: Scalable Best-First Tree Search for LLM-based Automatic Theorem Proving",
        ("pairing.searchTree", "a prover that learns from refused steps"),
    ),
    Paper(
        "Harnessing Negative Signals: Reinforcement Distillation from Teacher Data for LLM Reasoning",
        ("redi", "traces of a teacher, right and wrong"),
    ),
    Paper(
        "RL on Incorrect Synthetic Data Scales the Efficiency of LLM Math Reasoning by Eight-Fold",
        ("advantageDpo", "pairing.stepAdvantage", "credit for single steps"),
    ),
    Paper("Towards Efficient and Exact Optimization of Language Model Alignment", ("exo", "exoListwise")),
    Paper("Direct Preference Optimization with an Offset", ("odpo",)),
    Paper(
        "ERPO: Advancing Safety Alignment via Ex-Ante Reasoning Preference Optimization",
        ("erpo", "pairing.safeAndShorter", "safe answers by reasoning first"),
    ),
    Paper("Implicit Reward as the Bridge: A Unified View of SFT and DPO Connections", ("sftDivergence",)),
    Paper("New Desiderata for Direct Preference Optimization", ("typo",)),
    Paper("Following Length Constraints in Instructions", ("answers of a length that is asked for",)),
    Paper("A General Theoretical Paradigm to Understand Learning from Human Preferences", ("ipo",)),
    Paper(
        "Pre-DPO: Improving Data Utilization in Direct Preference Optimization Using a Guiding Reference Model",
        ("a guiding reference",),
    ),
    Paper("Feasible Learning", ("aggregation.feasible", "aggregation.resilientFeasible", "every row good enough")),
    Paper(
        "LongDPO: Unlock Better Long-form Generation Abilities for LLMs via Critique-augmented Stepwise Information",
        ("stepDpo", "pairing.valueGap", "long texts, step by step"),
    ),
    Paper("Preference Optimization as Probabilistic Inference", ("pmpo",)),
    Paper(
        "Provably Mitigating Overoptimization in RLHF: Your SFT Loss is Implicitly an Adversarial Regularizer",
        ("rpo",),
    ),
    Paper(
        "Iterative Reasoning Preference Optimization",
        ("iterativeRpo", "pairing.correctWrong", "rounds of reasoning"),
    ),
    Paper(
        "Direct Discriminative Optimization: Your Likelihood-Based Visual Generative Model is Secretly a GAN "
        "Discriminator",
        ("ddo",),
    ),
    Paper(
        "WPO: Enhancing RLHF with Weighted Preference Optimization", ("weighting.wpo", "pairs that other models wrote")
    ),
    Paper(
        "Regression Compatible Listwise Objectives for Calibrated Ranking with Binary Relevance",
        ("rewardRegressionCompatible",),
    ),
    Paper(
        "CrowdVLM-R1: Expanding R1 Ability to Vision Language Model for Crowd Counting using Fuzzy Group Relative "
        "Policy Reward",
        ("numeric",),
    ),
    Paper("On the Design of KL-Regularized Policy Gradient Algorithms for LLM Reasoning", ("rpg", "rpgReference")),
    Paper("GVPO: Group Variance Policy Optimization for Large Language Model Post-Training", ("gvpo",)),
    Paper(
        "Group-Relative REINFORCE Is Secretly an Off-Policy Algorithm: Demystifying Some Myths About GRPO and Its "
        "Friends",
        ("rec", "opmd", "asymRe", "redDrop", "redWeight"),
    ),
    Paper(
        "Pref-GRPO: Pairwise Preference Reward-based GRPO for Stable Text-to-Image Reinforcement Learning",
        ("pairwiseWinRate", "pairwiseJudge"),
    ),
    Paper("Quantile Advantage Estimation for Entropy-Safe Reasoning", ("quantile",)),
    Paper("A Distributional Perspective on Reinforcement Learning", ("loss.categorical",)),
    Paper("Trajectory-Aware Eligibility Traces for Off-Policy Reinforcement Learning", ("rbis",)),
    Paper("Switching the Loss Reduces the Cost in Batch Reinforcement Learning", ("loss.bce",)),
    Paper(
        "Tree-OPO: Off-policy Monte Carlo Tree-Guided Advantage Optimization for Multistep Reasoning", ("prefixTree",)
    ),
    Paper("High-Dimensional Continuous Control Using Generalized Advantage Estimation", ("gae",)),
    Paper(
        "Open-Reasoner-Zero: An Open Source Approach to Scaling Up Reinforcement Learning on the Base Model", ("gae",)
    ),
    Paper("Lean and Mean: Decoupled Value Policy Optimization with Global Value Guidance", ("frozenValue", "frozen")),
    Paper("Unlocking the Potential of Difficulty Prior in RL-based Multimodal Reasoning", ("difficultyWeighted",)),
    Paper("COPO: Consistency-Aware Policy Optimization", ("copo",)),
    Paper("Mirror Descent Policy Optimization", ("mdpo",)),
    Paper("Discovered Policy Optimisation", ("discovered",)),
    Paper(
        "The Unreasonable Effectiveness of Entropy Minimization in LLM Reasoning",
        ("entropyFinetuning", "sequenceConfidence", "tokenConfidence"),
    ),
    Paper("Batch size-invariance for policy optimization", ("decoupledPpo", "ppoEwma")),
    Paper(
        "Teaching Large Language Models to Reason with Reinforcement Learning", ("expertIteration", "returnConditioned")
    ),
    Paper(
        "Learning Math Reasoning from Self-Sampled Correct and Partially-Correct Solutions",
        ("mleAugmented", "marginalLikelihood"),
    ),
    Paper("Confronting Reward Model Overoptimization with Constrained RLHF", ("constrained",)),
    Paper(
        "Learning to Optimize Multi-Objective Alignment Through Dynamic Reward Weighting",
        ("hypervolumeWeighting", "gradientWeighting"),
    ),
    Paper("SophiaVL-R1: Reinforcing MLLMs Reasoning with Thinking Reward", ("trust",)),
    Paper("Stable Reinforcement Learning for Efficient Reasoning", ("gatedLength",)),
    Paper("Unlocking Recursive Thinking of LLMs: Alignment via Refinement", ("refinementGain",)),
    Paper(
        "Do NOT Think That Much for 2+3=? On the Overthinking of o1-Like LLMs",
        ("solutionEfficiency", "pairing.solutionRounds"),
    ),
    Paper("Optimizing Length Compression in Large Reasoning Models", ("lengthCompression",)),
    Paper("Posterior-GRPO: Rewarding Reasoning Processes in Code Generation", ("posterior",)),
    Paper(
        "Qwen2.5-Math Technical Report: Toward Mathematical Expert Model via Self-Improvement",
        ("sigmoidGate",),
    ),
    Paper("Optimizing Test-Time Compute via Meta Reinforcement Fine-Tuning", ("progress",)),
    Paper(
        "When Greedy Wins: Emergent Exploitation Bias in Meta-Bandit LLM Training",
        ("banditRegret", "oracleImitation"),
    ),
    Paper(
        "Reinforcement Learning with Verifiable yet Noisy Rewards under Imperfect Verifiers",
        ("backwardCorrection", "forwardCorrection"),
    ),
    Paper("Hard Examples Are All You Need: Maximizing GRPO Post-Training Under Annotation Budgets", ("hardestShare",)),
    Paper("Vanishing Gradients in Reinforcement Finetuning of Language Models", ("rewardDeviation",)),
    Paper("Self-Evolving Curriculum for LLM Reasoning", ("selfEvolving",)),
    Paper("Unlocking the Potential of Difficulty Prior in RL-based Multimodal Reasoning", ("passRateBand",)),
    Paper(
        "Optimizing Chain-of-Thought Reasoners via Gradient Variance Minimization in Rejection Sampling and RL",
        ("budget.gradientVariance",),
    ),
    Paper(
        "Depth-Breadth Synergy in RLVR: Unlocking LLM Reasoning Gains with Adaptive Exploration", ("resampling.dars",)
    ),
    Paper("Adaptive Guidance Accelerates Reinforcement Learning of Reasoning Models", ("rescue.guidance",)),
    Paper("GCPO: When Contrast Fails, Go Gold", ("rescue.gold",)),
    Paper("Towards a Unified View of Large Language Model Post-Training", ("rescue.demonstration",)),
    Paper("Beyond Correctness: Harmonizing Process and Outcome Rewards through RL Training", ("selection.prof",)),
    Paper(
        "VL-Rethinker: Incentivizing Self-Reflection of Vision-Language Models with Reinforcement Learning",
        ("replay.selective",),
    ),
    Paper(
        "Enhancing LLM Agents for Code Generation with Possibility and Pass-rate Prioritized Experience Replay",
        ("replay.possibilityPassRate",),
    ),
    Paper("Understanding R1-Zero-Like Training: A Critical Perspective", ("drGrpo",)),
    Paper("EPO: Entropy-regularized Policy Optimization for LLM Agents Reinforcement Learning", ("entropy.smoothing",)),
    Paper(
        "Open-Reasoner-Zero: An Open Source Approach to Scaling Up Reinforcement Learning on the Base Model",
        ("reinforcement from the base model",),
    ),
    Paper("Is DPO Superior to PPO for LLM Alignment? A Comprehensive Study", ("PPO as strong as it gets",)),
    Paper("Leanabell-Prover: Posttraining Scaling in Formal Reasoning", ("a prover in two stages",)),
    Paper(
        "Lean and Mean: Decoupled Value Policy Optimization with Global Value Guidance", ("values from another model",)
    ),
    Paper("Qsharp: Provably Optimal Distributional RL for LLM Post-Training", ("qSharp",)),
    Paper("B-Coder: Value-Based Deep Reinforcement Learning for Program Synthesis", ("conservativeBellman",)),
)
