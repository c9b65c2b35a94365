"""What belongs to no room: errors, the machine, checkpoints, the console."""
