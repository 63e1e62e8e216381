"""What a learner answers: exercises, hints, predictions, and the record of their progress."""
