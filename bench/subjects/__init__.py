"""What is measured: products, convolutions, networks, exported models; and `ulp` as it runs them."""
