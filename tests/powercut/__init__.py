"""What a power cut may leave of files: built from a record of the system calls of the program that wrote them."""
