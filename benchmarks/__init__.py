"""Speed and memory against peers, as ratios on the same work in one run."""
