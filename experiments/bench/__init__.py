"""What things cost. A file here declares a question, and how its answer is measured."""
