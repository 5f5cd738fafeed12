"""What the model answers: graded, labelled, calibrated, varied, perturbed, merged."""
