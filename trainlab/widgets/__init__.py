"""What a person touches: charts that move, and the live panels built on them."""
