"""What is trained and measured: data, tasks, models, stages with their launchers, and the serving benchmark."""
