from tests.envs.answers import main

main()
