"""What trains: a plan as one program, in a folder from which it goes on, on any devices and in any processes."""
