"""What an edit does to training when the optimizer is carried along, and when it is not."""
