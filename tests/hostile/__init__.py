"""Files from strangers: changed at random, and read as the library reads them."""
