"""The exact fast engine: the metric of many edited runs of one batch, each equal to running it alone.

    clean = Clean(model, batch)
    effects = replay(clean, [patch("resid_post.3", value, positions=[p]) for p in range(10)], answer_logprob(batch))

It calls the model's own blocks (norms, projections, rotary embedding, MLP), but only those after an edit, only
for the positions an edit reaches, all runs joined, and the last block and the unembedding only where the metric
reads. fp32 results equal one full forward pass per run to rounding (tests: 1e-5).
"""

from probe.replay.engine import RunNotFiniteError, clean_metric, replay
from probe.replay.metric import Metric, answer_logprob, logit_difference
from probe.replay.proved import Clean

__all__ = ["Clean", "Metric", "RunNotFiniteError", "answer_logprob", "clean_metric", "logit_difference", "replay"]
