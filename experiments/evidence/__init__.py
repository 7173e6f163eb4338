"""How well theory predicts runs. A file here declares a question, and how its answer is measured."""
