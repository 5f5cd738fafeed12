"""What is read off a model and a text: readouts, scored tokens, kept responses, grades.

Names are imported when first used, since most need torch: `from analyses.core import reading`, `reading.batches(...)`.
"""

from typing import TYPE_CHECKING

from probe.lazily import face

if TYPE_CHECKING:
    from analyses.core.reading.comparable import (
        pair_warnings,
    )
    from analyses.core.reading.outcomes import (
        answer_logprob,
        responses_graded,
    )
    from analyses.core.reading.patch_gates import (
        SMALLEST_GAP,
        chosen_sites,
        contrasted_groups,
        gate,
        place,
        prompt_columns,
        refuse_outside,
        same_ids,
        share,
    )
    from analyses.core.reading.pooled import (
        pooled_states,
        strata_of,
        two_groups,
    )
    from analyses.core.reading.readouts import (
        OVERFLOWN,
        divergences,
        log_softmax,
        row_chunks,
        streamed,
    )
    from analyses.core.reading.softmax_terms import (
        baseline,
        change,
        covariance,
        discriminator,
        entropy,
        log_probs,
        sampled_change,
    )
    from analyses.core.reading.tangent import (
        along,
        difference,
        optimizer_step,
    )
    from analyses.core.reading.teacher_forced import (
        batches,
        columns,
        scored,
        token_classes,
    )

__all__ = [
    "OVERFLOWN",
    "SMALLEST_GAP",
    "along",
    "answer_logprob",
    "baseline",
    "batches",
    "change",
    "chosen_sites",
    "columns",
    "contrasted_groups",
    "covariance",
    "difference",
    "discriminator",
    "divergences",
    "entropy",
    "gate",
    "log_probs",
    "log_softmax",
    "optimizer_step",
    "pair_warnings",
    "place",
    "pooled_states",
    "prompt_columns",
    "refuse_outside",
    "responses_graded",
    "row_chunks",
    "same_ids",
    "sampled_change",
    "scored",
    "share",
    "strata_of",
    "streamed",
    "token_classes",
    "two_groups",
]
_HOME = {
    "OVERFLOWN": "readouts",
    "SMALLEST_GAP": "patch_gates",
    "along": "tangent",
    "answer_logprob": "outcomes",
    "baseline": "softmax_terms",
    "batches": "teacher_forced",
    "change": "softmax_terms",
    "chosen_sites": "patch_gates",
    "columns": "teacher_forced",
    "contrasted_groups": "patch_gates",
    "covariance": "softmax_terms",
    "difference": "tangent",
    "discriminator": "softmax_terms",
    "divergences": "readouts",
    "entropy": "softmax_terms",
    "gate": "patch_gates",
    "log_probs": "softmax_terms",
    "log_softmax": "readouts",
    "optimizer_step": "tangent",
    "pair_warnings": "comparable",
    "place": "patch_gates",
    "pooled_states": "pooled",
    "prompt_columns": "patch_gates",
    "refuse_outside": "patch_gates",
    "responses_graded": "outcomes",
    "row_chunks": "readouts",
    "same_ids": "patch_gates",
    "sampled_change": "softmax_terms",
    "scored": "teacher_forced",
    "share": "patch_gates",
    "strata_of": "pooled",
    "streamed": "readouts",
    "token_classes": "teacher_forced",
    "two_groups": "pooled",
}

__getattr__, __dir__ = face(__name__, _HOME)
