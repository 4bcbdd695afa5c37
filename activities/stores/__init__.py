"""The object stores and trace stores: what a deletion needs of them, what speaks their protocols, and guards around them."""
