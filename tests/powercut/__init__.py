"""Files as a power cut may leave them, built from a record of the system calls of the program that wrote them."""
