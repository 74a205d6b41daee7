package keyring

const remedy = "unlock the login keychain, and allow the program to use it"
